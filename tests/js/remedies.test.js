// What a reason means and what to do about it, for each reason that the Python code has.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

import {
  explainer,
  remedyOf,
  remedyOfError,
  topReasons,
} from "../../airflow_provider_nexthink/plugins/static/remedies.js";

const ROOT = new URL("../../", import.meta.url);
const read = (path) => readFileSync(new URL(path, ROOT), "utf8");
const PACKAGE = "airflow_provider_nexthink/";
const MODULE = `${PACKAGE}plugins/static/remedies.js`;

// [status, reason, what the row is grouped as, a part of the remedy, where the reason is made, a part of it in that file]
const ROWS = [
  [
    "INVALID",
    "the uid is not a UUID (malformed text); not sent",
    "The uid is malformed",
    "uid_column",
    "deletion/plan.py",
    "the uid is not a UUID (",
  ],
  [
    "INVALID",
    "Nexthink says the uid is malformed",
    "The uid is malformed",
    "Which uid",
    "deletion/scheduler.py",
    "Nexthink says the uid is malformed",
  ],
  [
    "REJECTED",
    "the uid is blank",
    "The uid is missing",
    "Complete the source data",
    "deletion/plan.py",
    'f"the uid is {missing}"',
  ],
  ["REJECTED", "the uid is missing", "The uid is missing", "uid_column", "deletion/plan.py", '"missing"'],
  [
    "REJECTED",
    "the name is blank",
    "The name is missing",
    "blank name",
    "deletion/plan.py",
    '_NAME_BLANK = "the name is blank"',
  ],
  [
    "REJECTED",
    "the name is missing",
    "The name is missing",
    "Complete the source data",
    "deletion/plan.py",
    '_NAME_MISSING = "the name is missing"',
  ],
  [
    "REJECTED",
    "the name is not text but of type int: read that column as text, or another device may be meant",
    "The name is not text",
    "as text",
    "deletion/plan.py",
    "is not text but",
  ],
  [
    "REJECTED",
    "the name holds characters that no response and no database can give back",
    "The name has characters that cannot be sent",
    "Correct the name",
    "deletion/plan.py",
    "holds characters",
  ],
  [
    "REJECTED",
    "the list gives this uid two names: which device is meant is ambiguous",
    "One uid with two names",
    "which name is right",
    "deletion/plan.py",
    "the list gives this uid two names",
  ],
  [
    "REJECTED",
    "Nexthink refuses this device: no such thing",
    "Nexthink refuses this device",
    "request id",
    "deletion/scheduler.py",
    "Nexthink refuses this device: ",
  ],
  [
    "FAILED",
    "Nexthink could not schedule it",
    "Nexthink could not schedule it",
    "Run the list again",
    "deletion/scheduler.py",
    "Nexthink could not schedule it",
  ],
  [
    "EXCLUDED",
    "another row of the list has this device as EXCLUDED: excluded by 'VIP-*'",
    "Another row has this device as EXCLUDED",
    "joined",
    "deletion/plan.py",
    "another row of the list has this device as ",
  ],
  [
    "REJECTED",
    "the list has it as REJECTED",
    "Kept back in the list already",
    "outcome table",
    "deletion/plan.py",
    "the list has it as ",
  ],
  [
    "EXCLUDED",
    "excluded by 'CEO-*', which the connection protects",
    "Protected by the connection",
    "Policy on the connection",
    "deletion/plan.py",
    ", which the connection protects",
  ],
  ["EXCLUDED", "excluded by 'VIP-*'", "Excluded", "exclude", "deletion/plan.py", '"excluded by {!r}"'],
  [
    "EXCLUDED",
    "protected by the protect list",
    "On the protect list",
    "Protect list",
    "deletion/protect.py",
    "protected by the protect list",
  ],
  [
    "DUPLICATE",
    "the same device is earlier in the list",
    "Twice in the list",
    "nothing to do",
    "deletion/plan.py",
    "the same device is earlier in the list",
  ],
  [
    "UNKNOWN",
    "sent, but the run ended before the response came",
    "Sent, and the run ended before the response",
    "harmless",
    "deletion/scheduler.py",
    "sent, but the run ended before the response came",
  ],
  [
    "UNKNOWN",
    "sent, without an unambiguous response: no response within the timeout",
    "Sent, without an unambiguous response: no response within the timeout",
    "harmless",
    "deletion/scheduler.py",
    "sent, without an unambiguous response: ",
  ],
  [
    "UNKNOWN",
    "sent, without an unambiguous response: 503",
    "Sent, without an unambiguous response: Nexthink is unavailable (503)",
    "NQL",
    "api/errors.py",
    "status >= 500",
  ],
  [
    "UNKNOWN",
    "sent, without an unambiguous response: the response cannot be trusted: it names 2 of 3 devices",
    "Sent, without an unambiguous response: the response cannot be trusted",
    "harmless",
    "api/data_management.py",
    "the response cannot be trusted: ",
  ],
  [
    "UNKNOWN",
    "sent, but the response could not be read: KeyError",
    "Sent, without an unambiguous response: KeyError",
    "harmless",
    "deletion/scheduler.py",
    "sent, but the response could not be read: ",
  ],
  [
    "UNKNOWN",
    "what was sent is not known here: an earlier try was lost; see its log, and whether Nexthink still has the device",
    "Not known: an earlier try was lost",
    "harmless",
    "deletion/journal.py",
    "what was sent is not known here: an earlier try was lost",
  ],
  [
    "UNKNOWN",
    "its task left no outcome table, so what was sent is unknown: see the log of that task",
    "Not known: the task of its chunk left no table",
    "log of that task",
    "chunks.py",
    "its task left no outcome table",
  ],
  [
    "NOT_SENT",
    "the process of the run was lost before its turn",
    "Not sent: the run was lost",
    "harmless",
    "ledger/reservation.py",
    "the process of the run was lost before its turn",
  ],
  [
    "NOT_SENT",
    "not accepted: 403 FEATURE_NOT_ENABLED",
    "Not sent: no permission (403)",
    "Tick the permission 'Data management'",
    "deletion/scheduler.py",
    "not accepted: ",
  ],
  [
    "NOT_SENT",
    "the run ended before its turn: 403",
    "Not sent: no permission (403)",
    "Tick the permission 'Data management'",
    "deletion/scheduler.py",
    "the run ended before its turn: ",
  ],
  ["NOT_SENT", "not accepted: 401", "Not sent: token refused (401)", "still active", "api/errors.py", "401"],
  ["NOT_SENT", "not accepted: 404", "Not sent: address not found (404)", "base_url", "api/errors.py", "404"],
  ["NOT_SENT", "not accepted: 407", "Not sent: refused by a proxy", "password of the proxy", "api/errors.py", '"407"'],
  [
    "NOT_SENT",
    "the run ended before its turn: The proxy http://proxy:3128 refused the connection to https://acme: 403 Forbidden",
    "Not sent: refused by a proxy",
    "proxy",
    "api/errors.py",
    "refused the connection to",
  ],
  [
    "NOT_SENT",
    "the run ended before its turn: 429",
    "Not sent: too many requests (429)",
    "requests_per_second",
    "api/errors.py",
    "429",
  ],
  [
    "NOT_SENT",
    "the run ended before its turn: 503",
    "Not sent: Nexthink is unavailable (503)",
    "nothing to correct",
    "api/errors.py",
    "NexthinkUnavailableError",
  ],
  ["NOT_SENT", "not accepted: 413", "Not sent: request too large", "batch_size", "api/errors.py", "413"],
  [
    "NOT_SENT",
    "not accepted: 400 BATCH_SIZE_EXCEEDED",
    "Not sent: request too large",
    "batch_size",
    "api/errors.py",
    "BATCH_SIZE_EXCEEDED",
  ],
  [
    "NOT_SENT",
    "not accepted, like all before it: 400 INVALID_REQUEST",
    "Not sent: refused (400)",
    "retry changes nothing",
    "deletion/scheduler.py",
    "not accepted, like all before it: ",
  ],
  ["NOT_SENT", "not accepted: 302", "Not sent: redirected (302)", "base_url", "api/errors.py", "is_redirect"],
  [
    "NOT_SENT",
    "not sent: Connection refused",
    "Not sent: Connection refused",
    "DNS",
    "deletion/scheduler.py",
    "not sent: ",
  ],
  [
    "NOT_SENT",
    "the run ended before its turn: Connection refused",
    "Not sent: Connection refused",
    "DNS",
    "deletion/scheduler.py",
    "the run ended before its turn: ",
  ],
  [
    "NOT_SENT",
    "the run ended before its turn: KeyError",
    "Not sent: KeyError",
    "in its log",
    "deletion/retry_policy.py",
    "type(error).__name__",
  ],
  [
    "NOT_SENT",
    "not sent: no connection within the timeout",
    "Not sent: no connection within the timeout",
    "timeout",
    "api/errors.py",
    "no connection within the timeout",
  ],
  [
    "NOT_SENT",
    "not sent: no token could be fetched (503)",
    "Not sent: no token",
    "login_url",
    "api/auth.py",
    "no token could be fetched (",
  ],
  [
    "NOT_SENT",
    "the run ended before its turn: The certificate of https://acme is not accepted: expired",
    "Not sent: certificate not accepted",
    "verify",
    "api/errors.py",
    "The certificate of ",
  ],
  [
    "NOT_SENT",
    "the run ended before its turn: The run was stopped from outside: no other batch is sent",
    "Not sent: the run was stopped",
    "next try",
    "client.py",
    "The run was stopped from outside",
  ],
  [
    "NOT_SENT",
    "the run ended before its turn: Another try of this task has begun: this one is over, and sends no other batch",
    "Not sent: the try was over",
    "newest try",
    "ledger/task_state.py",
    "Another try of this task has begun",
  ],
  [
    "NOT_SENT",
    "the run ended before its turn: The supervisor of this task process is gone: Airflow cannot reach this try any more",
    "Not sent: the try was over",
    "supervisor",
    "utils/task_state.py",
    "The supervisor of this task process is gone",
  ],
  [
    "NOT_SENT",
    "the run ended before its turn: Airflow's supervisor of this task process is gone, and a retry may run beside it",
    "Not sent: the try was over",
    "supervisor",
    "hooks/nexthink.py",
    "Airflow's supervisor of this task process is gone",
  ],
  [
    "NOT_SENT",
    "the run ended before its turn: No other batch is sent: the connection was set to deletions=off while the run was going",
    "Not sent: stopped by the policy",
    "Ask who looks after the connection",
    "utils/policy_watch.py",
    "No other batch is sent: ",
  ],
  [
    "NOT_SENT",
    "the run ended before its turn: The ledger (connection 'ledger') has not responded for 60 seconds",
    "Not sent: the ledger did not respond",
    "database of the ledger",
    "ledger/run.py",
    "has not responded for",
  ],
  [
    "NOT_SENT",
    "the run ended before its turn: AirflowTaskTimeout",
    "Not sent: the task ran out of time",
    "execution_timeout",
    "deletion/retry_policy.py",
    "type(error).__name__",
  ],
];

for (const [status, reason, title, remedy, file, source] of ROWS) {
  test(`remedyOf ${status}, ${reason.slice(0, 60)}`, () => {
    const found = remedyOf({ status, reason });
    assert.equal(found.reason, title);
    assert.ok(found.remedy.includes(remedy), found.remedy);
    assert.ok(read(PACKAGE + file).includes(source), `${file} has no ${source}`);
  });
}

test("remedyOf has a remedy for each status without a reason, and for a reason that is not known", () => {
  const statuses = Object.keys(
    JSON.parse(read(`${PACKAGE}plugins/static/statuses.js`).match(/STATUSES = (\{[^}]*\})/)[1]),
  );
  assert.equal(statuses.length, 9);
  for (const status of statuses) {
    assert.notEqual(remedyOf({ status, reason: null }).remedy, "", status);
    const other = remedyOf({ status, reason: "never seen before" });
    assert.ok(other.reason.endsWith(": never seen before"), other.reason);
    assert.notEqual(other.remedy, "", status);
  }
  assert.deepEqual(remedyOf({ status: "NEW", reason: null }), { reason: "NEW", remedy: "" });
  assert.ok(remedyOf({ status: "FAILED", reason: "x".repeat(1000) }).reason.length < 130);
});

test("remedyOfError knows each error that can end a deletion", () => {
  const names = [...read(`${PACKAGE}exceptions.py`).matchAll(/^class (Nexthink\w+)\(/gm)].map(([, name]) => name);
  const bases = ["NexthinkError", "NexthinkApiError", "NexthinkFinalError", "NexthinkRetryableError"];
  const ofOthers = [
    "NexthinkEventError",
    "NexthinkDevicesError",
    "NexthinkDevicesRetryableError",
    "NexthinkDevicesRefusedError",
  ];
  for (const type of names.filter((name) => ![...bases, ...ofOthers].includes(name))) {
    const { reason, remedy } = remedyOfError({ type, message: "" });
    assert.notEqual(reason, "The task failed", type);
    assert.notEqual(remedy, "", type);
  }
  assert.deepEqual(remedyOfError({ type: "KeyError", message: "x" }), {
    reason: "The task failed",
    remedy: "See the log of the task.",
  });
});

test("remedyOfError names the option that raises a limit", () => {
  const remedy = (message) => remedyOfError({ type: "NexthinkGuardError", message }).remedy;
  const start = "The list would delete 80003 devices, more than";
  assert.match(
    remedy(
      `${start} max_devices=500 of the task allows. If that many are meant, raise max_devices of the task; there is no undo.`,
    ),
    /raise max_devices of the task/,
  );
  assert.match(
    remedy(
      `${start} max_devices=500 of the connection allows. If that many are meant, raise max_devices of the connection; there is no undo.`,
    ),
    /max_devices raised on the connection/,
  );
  assert.match(
    remedy("80003 devices would be deleted, more than max_devices allows (500)."),
    /max_devices of the task/,
  );
  assert.match(remedy(`${start} max_share=0.05 (5.0%) of the task allows.`), /raise max_share/);
  assert.match(
    remedy(`${start} max_growth=3 allows: the median of the last 5 runs of this task is 10.`),
    /raise max_growth/,
  );
  assert.match(
    remedy(
      "The list would delete 9 devices, and 3 are left of the quota of the connection: quota_devices=5 in quota_days=7.",
    ),
    /quota_devices raised on the connection/,
  );
  assert.match(
    remedy(
      "The list would delete 9 devices, and no device that was deleted by the uid of uid has been seen to go (require_proof of the connection).",
    ),
    /nexthink_delete_canary_first/,
  );
  assert.match(remedy("another limit"), /the message names/);
});

test("remedyOfError tells policies and settings apart", () => {
  const of = (type, message) => remedyOfError({ type, message });
  assert.equal(
    of("NexthinkPolicyError", "Deletions are off: the extra deletions of the connection says so.").reason,
    "Deletions are off",
  );
  assert.equal(
    of("NexthinkPolicyError", "The connection has the extra require_proof, which needs a ledger: set it").reason,
    "The policy needs a ledger",
  );
  assert.match(
    of("NexthinkSettingsError", "The certificate of https://acme is not accepted: self-signed. Set verify.").remedy,
    /CA bundle/,
  );
  assert.match(
    of("NexthinkSettingsError", "The proxy http://proxy refused the connection to https://acme: 407.").remedy,
    /password of the proxy/,
  );
  assert.match(
    of("NexthinkSettingsError", "The Nexthink connection has no region").remedy,
    /Correct what the message names/,
  );
});

test("remedies name pages and sections of the docs that are there", () => {
  const headings = new Map();
  for (const file of readdirSync(new URL("docs/", ROOT)).filter((name) => name.endsWith(".md"))) {
    const found = [...read(`docs/${file}`).matchAll(/^#{1,4} (.+)$/gm)].map(([, heading]) =>
      heading.replaceAll("*", ""),
    );
    if (found.length > 0) headings.set(found[0], found);
  }
  const page = (name) =>
    [...headings].find(([title]) => title === name || title.startsWith(`${name}:`) || title.startsWith(name))?.[1];
  const source = read(MODULE);
  const named = [...source.matchAll(/docs\(((?:"[^"]+"(?:, )?)+)\)/g)].map(([, names]) =>
    [...names.matchAll(/"([^"]+)"/g)].map(([, name]) => name),
  );
  named.push(
    ...[...source.matchAll(/troubleshooting\("([^"]+)"\)/g)].map(([, section]) => ["Troubleshooting", section]),
  );
  assert.ok(named.length > 30);
  for (const [name, section] of named) {
    assert.ok(page(name), name);
    if (section) assert.ok(page(name).includes(section), `${name}, ${section}`);
  }
});

test("topReasons counts alike reasons together, the most frequent first", () => {
  const table = {
    status: ["INVALID", "NOT_SENT", "NOT_SENT", "SCHEDULED"],
    reason: [
      "Nexthink says the uid is malformed",
      "not accepted: 403 FEATURE_NOT_ENABLED",
      "the run ended before its turn: 403 FEATURE_NOT_ENABLED",
      undefined,
    ],
  };
  const explain = explainer(table);
  const found = topReasons(table, ["INVALID", "NOT_SENT"], explain);
  assert.deepEqual(
    found.map(({ reason, count, status }) => [reason, count, status]),
    [
      ["Not sent: no permission (403)", 2, "NOT_SENT"],
      ["The uid is malformed", 1, "INVALID"],
    ],
  );
  assert.equal(explain(3), explain(3));
});
