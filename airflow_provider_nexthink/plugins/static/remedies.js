// What a person does about a row, or about a run that sent nothing. No I/O.
//
// The reasons are those that airflow_provider_nexthink/deletion and api write into the rows.

const RUN_AGAIN = "Run these again: that is harmless, also for a device that was queued already.";

// For rows that were refused as they stand.
const OF_THE_LIST = [
  [/two names/, "The list gives this uid two names: find out which device is meant, and correct the list."],
  [/^the name/, "Correct the name in the list."],
  [/^the uid/, "Correct the uid in the list. See the page Which uid."],
  [/^Nexthink refuses/, "Nexthink refuses this very device: look it up there, and take it off the list."],
];

// For rows that were not sent, or without a clear response.
const OF_THE_REQUEST = [
  [
    /\b407\b|proxy/i,
    "A proxy between Airflow and Nexthink refuses: check proxy and verify on the connection, then run these again.",
  ],
  [
    /\b401\b|token/i,
    "The credential was refused: check Client ID and Client secret of the connection, then run these again.",
  ],
  [
    /\b403\b/,
    "The API credential lacks a permission: in Nexthink, tick Data management on it, then run these again. See Troubleshooting.",
  ],
  [/\b404\b/, "Nexthink does not know this address: check the instance and the region of the connection."],
  [/\b429\b/, "Nexthink was asked too often: lower requests_per_second or max_concurrency, then run these again."],
  [
    /policy|deletions are off/i,
    "The policy on the connection has stopped the run: ask who looks after the connection.",
  ],
];

const BY_STATUS = {
  INVALID: "The uid is malformed: take it from Nexthink's own inventory. See the page Which uid.",
  REJECTED: "It cannot be sent as it stands: correct the row in the list.",
  FAILED:
    "Nexthink could not schedule it. Run these again later; if it stays so, give the request id to Nexthink's support.",
  UNKNOWN: `It is not known whether Nexthink has queued it. ${RUN_AGAIN}`,
  NOT_SENT: "The run ended before its turn. Run these again once the cause is gone.",
};

// {reason, remedy}: the reason in the words of the table, and what to do about it.
export function remedyOf({ status, reason }) {
  const text = reason ?? "";
  const table =
    { INVALID: OF_THE_LIST, REJECTED: OF_THE_LIST, NOT_SENT: OF_THE_REQUEST, UNKNOWN: OF_THE_REQUEST }[status] ?? [];
  const found = table.find(([pattern]) => pattern.test(text));
  return { reason: text ? `${status}: ${text}` : status, remedy: found?.[1] ?? BY_STATUS[status] ?? "" };
}

const BY_ERROR = {
  NexthinkGuardError: "If that many are meant, raise the limit; else shorten the list, and run it again.",
  NexthinkPolicyError: "The policy on the connection forbids it: ask who looks after the connection.",
  NexthinkInputError: "Correct the list or the option, and run the task again: a retry by itself changes nothing.",
  NexthinkAuthenticationError:
    "Check Client ID and Client secret of the connection; its Test button tells whether they work.",
  NexthinkPermissionError:
    "In Nexthink, Administration > API credentials, tick Data management on the credential. See Troubleshooting.",
  NexthinkProxyError: "Check proxy and verify on the connection, or ask who looks after the proxy.",
  NexthinkStoppedError: "The try was stopped. Run the task again: devices that were scheduled are not sent twice.",
  NexthinkTryOverError: "Another try has taken its place, or it was cleared: look at that one.",
};

// What to do about the error that ended a run; "" where its message says it all.
export const remedyOfError = (error) => BY_ERROR[error?.type] ?? "";

// The reasons of rows with how many there are, the most frequent first: [{reason, remedy, count, status}].
export function topReasons(table, statuses) {
  const found = new Map();
  table.status.forEach((status, at) => {
    if (!statuses.includes(status)) return;
    const row = { status, reason: table.reason[at] ?? null };
    const key = JSON.stringify([status, row.reason]);
    const known = found.get(key);
    if (known) known.count += 1;
    else found.set(key, { ...remedyOf(row), status, text: row.reason ?? "", count: 1 });
  });
  return [...found.values()].sort((one, other) => other.count - one.count);
}
