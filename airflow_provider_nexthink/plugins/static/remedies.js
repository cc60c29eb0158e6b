// What a reason means, and what a person does about it: for a row of an outcome table, and for the error of a run. No I/O.
//
// The reasons are those of the Python code: deletion/plan.py, deletion/scheduler.py, deletion/retry_policy.py,
// deletion/journal.py, chunks.py. tests/js/remedies.test.js has one of each.

const docs = (...names) => `(Docs: ${names.join(", ")})`;
const troubleshooting = (section) => docs("Troubleshooting", section);

const HARMLESS = "Run the list again soon: this is harmless."; // later, a device may be in use again
const CONNECTION = `Check that the worker reaches Nexthink: the instance and the region of the connection, DNS, and the proxy. ${troubleshooting("The connection")}`;
const TICK =
  "Tick the permission 'Data management' on the API credential in Nexthink; where the box is missing, the feature is not enabled for this tenant: ask Nexthink.";
const PROXY = `Check the user and the password of the proxy, and whether it lets the worker through to Nexthink. ${troubleshooting("The connection")}`;
const TIMEOUT = `${HARMLESS} If it happens again, raise the timeout of the connection. ${troubleshooting("The connection")}`;
const UNAVAILABLE = `There is nothing to correct. ${HARMLESS} The run ends rather than load a tenant that is down. ${docs("Responses and retries")}`;
const RESUMES =
  "There is nothing to correct. Devices that were not sent are sent by the next try, or by another run of the list.";
const REFUSED = `The request was refused as it stands; a retry changes nothing. Nexthink's message is in the log. ${docs("Responses and retries")}`;
const SUPPORT = "give Nexthink support the request id of the row";

// Causes of an error, as they are in the reasons of rows: [pattern, name, remedy]. The first that matches counts.
const CAUSES = [
  [
    /^401\b/,
    "token refused (401)",
    `Check that the API credential is still active in Nexthink, and that base_url and login_url of the connection are those of the same tenant. ${troubleshooting("Tokens")}`,
  ],
  [
    /^403\b/,
    "no permission (403)",
    `${TICK} If the error of the task names a proxy, let the worker through it. ${troubleshooting("Permissions")}`,
  ],
  [
    /^404\b/,
    "address not found (404)",
    `Check the instance, the region and, where one is set, the base_url of the connection. ${troubleshooting("The connection")}`,
  ],
  [/^407\b|^The proxy .* refused|proxy.* (403|407)/i, "refused by a proxy", PROXY],
  [
    /^(413\b|400 BATCH_SIZE_EXCEEDED)/,
    "request too large",
    `Set a smaller batch_size on the task. ${docs("Responses and retries")}`,
  ],
  [
    /^429\b/,
    "too many requests (429)",
    `Run the list again later. Raise retry_delay, lower max_concurrency, or set requests_per_second. ${troubleshooting("Pass or fail")}`,
  ],
  [/^(408|425|5\d\d)\b/, ([status]) => `Nexthink is unavailable (${status.slice(0, 3)})`, UNAVAILABLE],
  [
    /^3\d\d\b/,
    ([status]) => `redirected (${status.slice(0, 3)})`,
    `Redirects are not followed: check the base_url of the connection, or the proxy in between. ${troubleshooting("Pass or fail")}`,
  ],
  [/^4\d\d\b/, ([status]) => `refused (${status.slice(0, 3)})`, REFUSED],
  [
    /^no token could be fetched/,
    "no token",
    `The login address did not respond. Run again later; if it happens again, check the login_url and the proxy. ${troubleshooting("Tokens")}`,
  ],
  [
    /^The certificate of/,
    "certificate not accepted",
    `The error of the task says whose certificate it is. Behind a proxy that inspects TLS, set the extra verify of the connection to the path of its CA bundle. ${troubleshooting("The connection")}`,
  ],
  [
    /^(Deletions are off|No other batch is sent)/,
    "stopped by the policy",
    `Deletions were turned off, or restricted, on the connection while the run was going. Ask who looks after the connection. ${docs("Safety", "Policy on the connection")}`,
  ],
  [
    /^(Airflow|The supervisor|Another try|This try)\b/,
    "the try was over",
    `The task was cleared, or its worker lost its supervisor. ${RESUMES} See the newest try. ${troubleshooting("Pass or fail")}`,
  ],
  [
    /^The run (was stopped|has ended)|^(KeyboardInterrupt|SystemExit|AirflowTaskTerminated|AirflowException)$/,
    "the run was stopped",
    RESUMES,
  ],
  [
    /^AirflowTaskTimeout|^TaskDeferralTimeout|^TimeoutError$/,
    "the task ran out of time",
    `Raise the execution_timeout of the task. ${RESUMES}`,
  ],
  [
    /[Ll]edger/,
    "the ledger did not respond",
    `Check the database of the ledger, then run the list again. ${troubleshooting("Ledger, quarantine, reconcile")}`,
  ],
  [
    /^(Connection (refused|reset)|Name or service not known|Temporary failure in name resolution|No address associated|No route to host|Network is unreachable)/,
    ([text]) => text,
    CONNECTION,
  ],
  [/within the timeout/, ([text]) => text, TIMEOUT],
  [
    /^the response cannot be trusted/,
    "the response cannot be trusted",
    `${HARMLESS} If it happens again, a proxy may modify the responses. ${docs("Responses and retries")}`,
  ],
  [/circuit breaker/, "circuit breaker", UNAVAILABLE],
];

function causeOf(text) {
  for (const [pattern, name, remedy] of CAUSES) {
    const found = pattern.exec(text);
    if (found) return { name: typeof name === "string" ? name : name([text, ...found]), remedy };
  }
  return null;
}

const MAX_NAME = 120;
const shortened = (text) => (text.length > MAX_NAME ? `${text.slice(0, MAX_NAME)}…` : text);

// Reasons of rows: [pattern, name, remedy]. A pattern with a group has the cause of an error in it: {name} and {remedy} of
// the cause take the place of the cause's text. The first that matches counts.
const REASONS = [
  [
    /^the uid is not a UUID|^Nexthink says the uid is malformed/,
    "The uid is malformed",
    `The column has a name, a serial number or an id of another system: correct the list, or name the right column in uid_column. ${docs("Which uid")}`,
  ],
  [
    /^the uid is (?:missing|blank)/,
    "The uid is missing",
    `Complete the source data, or name the right column in uid_column. ${docs("Which uid")}`,
  ],
  [
    /^the name is (?:missing|blank)/,
    "The name is missing",
    `Complete the source data: Nexthink refuses a request with a blank name. ${troubleshooting("Rows")}`,
  ],
  [
    /^the name is not text/,
    "The name is not text",
    `Read that column as text, or another device may be meant. ${docs("Pull devices with NQL", "Naming traps")}`,
  ],
  [
    /^the name holds characters/,
    "The name has characters that cannot be sent",
    `Correct the name in the source data. ${troubleshooting("Rows")}`,
  ],
  [
    /^the list gives this uid two names/,
    "One uid with two names",
    `Find out which name is right, and remove the other row. ${troubleshooting("Rows")}`,
  ],
  [
    /^Nexthink refuses this device/,
    "Nexthink refuses this device",
    `The reason of the row has Nexthink's message. Correct the row; if it is right, ${SUPPORT}. ${docs("Responses and retries")}`,
  ],
  [
    /^Nexthink could not schedule it/,
    "Nexthink could not schedule it",
    `Run the list again: a retry may schedule it. If it fails again, ${SUPPORT}. ${docs("Responses and retries")}`,
  ],
  [
    /^another row of the list has this device as (\w+)/,
    ([, status]) => `Another row has this device as ${status}`,
    `Tables were joined, and one of them keeps this device back: correct that row. ${troubleshooting("Rows")}`,
  ],
  [
    /^the list has it as/,
    "Kept back in the list already",
    `The list is an outcome table, and this row had the status there. ${troubleshooting("Rows")}`,
  ],
  [
    /which the connection protects$/,
    "Protected by the connection",
    `The extra protected of the connection matched. ${docs("Safety", "Policy on the connection")}`,
  ],
  [/^excluded by/, "Excluded", `An entry of exclude matched. ${docs("Delete devices", "Exclusions")}`],
  [
    /^protected by the protect list/,
    "On the protect list",
    `The protect list of the task has this device. ${docs("Delete devices", "Protect list")}`,
  ],
  [/^the same device is earlier in the list/, "Twice in the list", "There is nothing to do: the device is sent once."],
  [
    /^sent, but the run ended before the response came/,
    "Sent, and the run ended before the response",
    `It may be queued. ${HARMLESS} Or check with NQL whether it is still there. ${docs("Reliability")}`,
  ],
  [
    /^sent, (?:without an unambiguous response|but the response could not be read): (.*)/s,
    "Sent, without an unambiguous response",
    `It may be queued. ${HARMLESS} Or check with NQL whether it is still there. ${docs("Responses and retries", "Ambiguous")}`,
  ],
  [
    /^what was sent is not known here/,
    "Not known: an earlier try was lost",
    `See the log of the earlier try, and check with NQL whether the device is still there. ${HARMLESS} ${docs("Reliability")}`,
  ],
  [
    /^its task left no outcome table/,
    "Not known: the task of its chunk left no table",
    `See the log of that task. ${HARMLESS} ${docs("Scaling out")}`,
  ],
  [
    /^the process of the run was lost before its turn/,
    "Not sent: the run was lost",
    `${HARMLESS} ${docs("Reliability")}`,
  ],
  [/^not sent: (.*)/s, "Not sent", CONNECTION],
  // Of an error that is not known here: only the log says what to do.
  [
    /^(?:not accepted, like all before it|not accepted|the run ended before its turn): (.*)/s,
    "Not sent",
    `See the error of the task in its log; then run the list again. ${troubleshooting("Rows")}`,
  ],
];

// If no reason matches.
const BY_STATUS = {
  SCHEDULED: ["Scheduled", `Nexthink removes the device later, in the background. ${docs("Verify removal")}`],
  PLANNED: ["Planned", "A dry run: nothing was sent."],
  INVALID: ["The uid is malformed", `Correct the list. ${docs("Which uid")}`],
  REJECTED: ["Cannot be sent", `Correct the row. ${troubleshooting("Rows")}`],
  FAILED: [
    "Nexthink could not schedule it",
    `Run the list again: a retry may schedule it. If it fails again, ${SUPPORT}.`,
  ],
  UNKNOWN: [
    "Sent, without an unambiguous response",
    `It may be queued. ${HARMLESS} ${docs("Responses and retries", "Ambiguous")}`,
  ],
  NOT_SENT: ["Not sent", `${HARMLESS} The error of the task says why the run ended.`],
  EXCLUDED: ["Excluded", `An exclusion or the protect list matched. ${docs("Delete devices", "Exclusions")}`],
  DUPLICATE: ["Twice in the list", "There is nothing to do: the device is sent once."],
};

// {reason, remedy} for a row: the reason without what differs from row to row, and what to do about it.
export function remedyOf({ status, reason }) {
  const text = String(reason ?? "");
  for (const [pattern, name, remedy] of REASONS) {
    const found = pattern.exec(text);
    if (!found) continue;
    if (typeof name !== "string") return { reason: name(found), remedy };
    return found.length > 1 ? withCause(status, name, remedy, found[1].trim()) : { reason: name, remedy };
  }
  const [name, remedy] = BY_STATUS[status] ?? [String(status), ""];
  return { reason: text ? shortened(`${name}: ${text}`) : name, remedy };
}

// For a device that may have been sent, running again comes first, whatever the cause was.
function withCause(status, name, remedy, text) {
  const cause = causeOf(text);
  const reason = shortened(`${name}: ${cause?.name ?? text}`);
  return { reason, remedy: cause && status !== "UNKNOWN" ? cause.remedy : remedy };
}

const GUARDS = [
  [
    /max_devices=\S+ of the connection|max_devices of the connection/,
    `Find out why the list is so long. If that many are meant, have max_devices raised on the connection, or shorten the list. ${docs("Safety", "Policy on the connection")}`,
  ],
  [
    /max_devices/,
    `Find out why the list is so long. If that many are meant, raise max_devices of the task; else shorten the list. ${docs("Safety")}`,
  ],
  [
    /max_share/,
    `Find out why the list is so long. If that many are meant, raise max_share of the task; else shorten the list. ${docs("Safety")}`,
  ],
  [
    /max_growth/,
    `Find out why the list is so much longer than usual. If that many are meant, raise max_growth for this run. ${docs("Safety")}`,
  ],
  [
    /quota_devices|quota of the connection/,
    `Wait until there is more of the quota, shorten the list, or have quota_devices raised on the connection. ${docs("Safety", "Policy on the connection")}`,
  ],
  [
    /require_proof/,
    `Delete one device that can be spared first, and wait until it is gone: the Dag nexthink_delete_canary_first does. ${docs("Which uid")}`,
  ],
];

// By the class of the error: [name, remedy].
const ERRORS = {
  NexthinkGuardError: [
    "A limit was exceeded",
    `Shorten the list, or raise the limit that the message names. ${docs("Safety")}`,
  ],
  NexthinkPolicyError: [
    "The policy on the connection forbids it",
    `Ask who looks after the connection. ${docs("Safety", "Policy on the connection")}`,
  ],
  NexthinkSettingsError: [
    "The connection must be corrected",
    `Correct what the message names. ${troubleshooting("The connection")}`,
  ],
  NexthinkInputError: [
    "The list or an option must be corrected",
    `Correct what the message names; a retry changes nothing. ${troubleshooting("The list")}`,
  ],
  NexthinkLedgerMismatchError: [
    "The database cannot be the ledger",
    `Correct ledger_conn_id on the connection. ${troubleshooting("Ledger, quarantine, reconcile")}`,
  ],
  NexthinkLedgerError: [
    "The ledger cannot be used just now",
    `Check that its database is there, reachable and not full. Nothing is sent without it; a retry tries again. ${troubleshooting("Ledger, quarantine, reconcile")}`,
  ],
  NexthinkLedgerBusyError: [
    "The ledger is busy",
    `Other runs hold its lock. A retry tries again. ${troubleshooting("Ledger, quarantine, reconcile")}`,
  ],
  NexthinkPermissionError: ["No permission (403)", `${TICK} ${troubleshooting("Permissions")}`],
  NexthinkAuthenticationError: [
    "No token, or the token was refused (401)",
    `Check the client id and the secret, and that the API credential is active in Nexthink. ${troubleshooting("Tokens")}`,
  ],
  NexthinkTokenError: [
    "No token could be fetched",
    `The login address did not respond. A retry tries again. ${troubleshooting("Tokens")}`,
  ],
  NexthinkProxyError: ["A proxy refused the request", PROXY],
  NexthinkNotFoundError: [
    "Not found (404)",
    `Check the instance, the region and, where one is set, the base_url of the connection; for a saved query, its id. ${troubleshooting("The connection")}`,
  ],
  NexthinkRateLimitError: [
    "Too many requests (429)",
    `Run the list again later. Raise retry_delay, lower max_concurrency, or set requests_per_second. ${troubleshooting("Pass or fail")}`,
  ],
  NexthinkConnectError: ["No connection to Nexthink", CONNECTION],
  NexthinkUnavailableError: ["Nexthink did not respond clearly", UNAVAILABLE],
  NexthinkAmbiguousResponseError: ["Nexthink did not respond clearly", UNAVAILABLE],
  NexthinkBatchSizeError: [
    "The request is too large",
    `Set a smaller batch_size on the task. ${docs("Responses and retries")}`,
  ],
  NexthinkInvalidRequestError: ["Nexthink refused the request", REFUSED],
  NexthinkRequestError: ["Nexthink refused the request", REFUSED],
  NexthinkTruncatedError: [
    "The result of a query was cut off",
    `Narrow the query. ${docs("Pull devices with NQL", "Truncated results")}`,
  ],
  NexthinkExportError: ["The export of a query failed", `A retry starts another one. ${troubleshooting("NQL")}`],
  NexthinkExportTimeoutError: [
    "The export of a query took too long",
    `Narrow the query, or raise the timeout. ${troubleshooting("NQL")}`,
  ],
  NexthinkResultLimitError: ["The result of a query is too large", `Narrow the query. ${troubleshooting("NQL")}`],
  NexthinkStoppedError: ["The run was stopped", RESUMES],
  NexthinkTryOverError: [
    "The try was over",
    `The task was cleared, or its worker lost its supervisor. ${RESUMES} ${troubleshooting("Pass or fail")}`,
  ],
  NexthinkResultsError: [
    "The file with the outcome could not be written",
    `The deletion is done, and the table is here. A retry writes the file. ${troubleshooting("The list")}`,
  ],
  AirflowTaskTimeout: ["The task ran out of time", `Raise the execution_timeout of the task. ${RESUMES}`],
};

// {reason, remedy} for the error of a summary: {type, message}.
export function remedyOfError({ type, message }) {
  const text = String(message ?? "");
  const [reason, remedy] = ERRORS[type] ?? ["The task failed", "See the log of the task."];
  if (type === "NexthinkGuardError")
    return { reason, remedy: GUARDS.find(([pattern]) => pattern.test(text))?.[1] ?? remedy };
  if (type === "NexthinkPolicyError" && /ledger/i.test(text))
    return {
      reason: "The policy needs a ledger",
      remedy: `Set the extra ledger_conn_id on the connection. ${docs("Ledger", "First use")}`,
    };
  if (type === "NexthinkPolicyError" && text.startsWith("Deletions are off"))
    return {
      reason: "Deletions are off",
      remedy: `Ask who looks after the connection: its extra deletions is off. ${docs("Safety", "Policy on the connection")}`,
    };
  if (type === "NexthinkSettingsError") {
    const cause = causeOf(text);
    if (cause) return { reason, remedy: cause.remedy };
  }
  if (type === "NexthinkInputError" && /protect list/.test(text))
    return {
      reason: "The protect list cannot be used",
      remedy: `Correct it: nothing is sent without it. ${docs("Delete devices", "Protect list")}`,
    };
  return { reason, remedy };
}

// {reason, remedy, status, count} of the rows of a table with one of these statuses, the most frequent first.
export function topReasons(table, statuses, explain = explainer(table)) {
  const found = new Map();
  table.status.forEach((each, row) => {
    if (!statuses.includes(each)) return;
    const { status, reason, remedy } = explain(row);
    const known = found.get(reason);
    if (known) known.count += 1;
    else found.set(reason, { reason, remedy, status, count: 1 });
  });
  return [...found.values()].sort((one, other) => other.count - one.count);
}

// explain(row) for a table, which looks at each pair of status and reason once.
export function explainer(table) {
  const known = new Map();
  return (row) => {
    const status = table.status[row];
    const reason = table.reason[row] ?? null;
    const key = `${status} ${reason}`;
    if (!known.has(key)) known.set(key, { status, ...remedyOf({ status, reason }) });
    return known.get(key);
  };
}
