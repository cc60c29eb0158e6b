// The words of an outcome, and in which group the chart shows each.

export const STATUSES = {
  SCHEDULED: "queued for deletion; Nexthink removes it later",
  INVALID: "the uid is malformed",
  FAILED: "Nexthink could not schedule it",
  UNKNOWN: "sent, and no answer that can be trusted came back",
  NOT_SENT: "the run ended before its turn, or the request never left",
  REJECTED: "cannot be sent, or was refused",
  DUPLICATE: "the same device stands earlier in the list",
  EXCLUDED: "an exclusion matched",
  PLANNED: "dry run: would be sent",
};

export const NEEDS_A_PERSON = ["INVALID", "REJECTED", "FAILED", "UNKNOWN", "NOT_SENT"];

export const GROUPS = [
  { id: "scheduled", label: "Scheduled", statuses: ["SCHEDULED"], always: true },
  { id: "invalid", label: "Invalid", statuses: ["INVALID"], always: true },
  { id: "failed", label: "Failed", statuses: ["FAILED"], always: true },
  { id: "unsettled", label: "Unknown or not sent", statuses: ["UNKNOWN", "NOT_SENT"] },
  { id: "kept", label: "Rejected, duplicate or excluded", statuses: ["REJECTED", "DUPLICATE", "EXCLUDED"] },
  { id: "planned", label: "Planned (dry run)", statuses: ["PLANNED"] },
];

export const groupOf = Object.fromEntries(GROUPS.flatMap(({ id, statuses }) => statuses.map((status) => [status, id])));

export const count = (summary, statuses) =>
  statuses.reduce((total, status) => total + (Number(summary[status]) || 0), 0);

export const isSummary = (value) =>
  value !== null && typeof value === "object" && Number.isFinite(value.requested) && "SCHEDULED" in value && "dry_run" in value;
