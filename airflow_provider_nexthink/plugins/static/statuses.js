// The statuses and columns of an outcome table, and how the page groups them. tests/unit/test_statuses.py checks them
// against airflow_provider_nexthink/status.py; it reads each value below as JSON.

export const STATUSES = {
  "SCHEDULED": "queued for deletion; Nexthink removes it later",
  "INVALID": "the uid is malformed",
  "FAILED": "Nexthink could not schedule it",
  "UNKNOWN": "sent, but no trustworthy response came back",
  "NOT_SENT": "the run ended before its turn, or the request never left",
  "REJECTED": "cannot be sent, or was refused",
  "DUPLICATE": "the same device is earlier in the list",
  "EXCLUDED": "an exclusion or a protect list matched",
  "PLANNED": "dry run: would be sent"
};

export const ACTION_REQUIRED = ["INVALID", "REJECTED", "FAILED", "UNKNOWN", "NOT_SENT"];

export const COLUMNS = [
  "uid",
  "name",
  "status",
  "reason",
  "batch",
  "request_id",
  "trace_id",
  "attempts",
  "submitted_at"
];

// The groups of the tiles, the chart and the tables. The id is also in the class names of page.css.
export const GROUPS = [
  { "id": "scheduled", "label": "Scheduled", "statuses": ["SCHEDULED"] },
  {
    "id": "attention",
    "label": "Need attention",
    "statuses": ["INVALID", "REJECTED", "FAILED", "UNKNOWN", "NOT_SENT"]
  },
  { "id": "kept", "label": "Kept back", "statuses": ["EXCLUDED", "DUPLICATE"] },
  { "id": "planned", "label": "Planned", "statuses": ["PLANNED"] },
  { "id": "blocked", "label": "Blocked", "statuses": [] }
];

export const groupOf = Object.fromEntries(GROUPS.flatMap(({ id, statuses }) => statuses.map((status) => [status, id])));
