// The statuses and columns of an outcome table. tests/unit/test_statuses.py checks them against
// airflow_provider_nexthink/status.py; it reads each value below as JSON.

export const STATUSES = {
  "SCHEDULED": "queued for deletion; Nexthink removes it later",
  "INVALID": "the uid is malformed",
  "FAILED": "Nexthink could not schedule it",
  "UNKNOWN": "sent, but no trustworthy response came back",
  "NOT_SENT": "the run ended before its turn, or the request never left",
  "REJECTED": "cannot be sent, or was refused",
  "DUPLICATE": "the same device is earlier in the list",
  "EXCLUDED": "an exclusion matched",
  "PLANNED": "dry run: would be sent"
};

export const ACTION_REQUIRED = ["INVALID", "REJECTED", "FAILED", "UNKNOWN", "NOT_SENT"];

export const COLUMNS = ["uid", "name", "status", "reason", "batch", "request_id", "trace_id", "attempts", "submitted_at"];

// What the chart shows in one color. The id is also in the class names of page.css.
export const GROUPS = [
  { "id": "scheduled", "label": "Scheduled", "statuses": ["SCHEDULED"], "always": true },
  { "id": "invalid", "label": "Invalid", "statuses": ["INVALID"], "always": true },
  { "id": "failed", "label": "Failed", "statuses": ["FAILED"], "always": true },
  { "id": "unknown", "label": "Unknown or not sent", "statuses": ["UNKNOWN", "NOT_SENT"] },
  { "id": "skipped", "label": "Rejected, duplicate or excluded", "statuses": ["REJECTED", "DUPLICATE", "EXCLUDED"] },
  { "id": "planned", "label": "Planned (dry run)", "statuses": ["PLANNED"] }
];

export const groupOf = Object.fromEntries(GROUPS.flatMap(({ id, statuses }) => statuses.map((status) => [status, id])));

export const count = (summary, statuses) =>
  statuses.reduce((total, status) => total + (Number(summary[status]) || 0), 0);

export const isSummary = (value) =>
  value !== null && typeof value === "object" && Number.isFinite(value.requested) && "SCHEDULED" in value && "dry_run" in value;
