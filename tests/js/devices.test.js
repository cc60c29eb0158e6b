import assert from "node:assert/strict";
import { test } from "node:test";

import {
  AttentionList,
  answerTo,
  byWhom,
  canonicalUid,
  deviceKey,
  listsToRun,
  matcher,
  newestLooks,
  openRuns,
  reasonsOf,
  shellWord,
  uidHeader,
} from "../../airflow_provider_nexthink/plugins/static/devices.js";
import { toRun } from "../../airflow_provider_nexthink/plugins/static/run.js";

const UID = "1e7ce857-7706-434a-878b-ce5b65ee0465";

// A run that ended on a day of November 2026.
function runOf(day, { rows = [], state = "success", dag_id = "stale", approval = null, ...values } = {}) {
  const counts = {};
  for (const { status } of rows) counts[status] = (counts[status] ?? 0) + 1;
  const when = `2026-11-${String(day).padStart(2, "0")}T00:00:00+00:00`;
  const summary = {
    requested: rows.length,
    SCHEDULED: 0,
    dry_run: false,
    instance: "acme",
    started_at: when,
    triggered_by: "anna",
    ...counts,
    ...values,
  };
  const entry = { dag_id, run_id: `manual__${day}`, task_id: "delete", map_index: -1, timestamp: when };
  return toRun({ entry, instance: { ...entry, dag_run_id: entry.run_id, state, start_date: when }, summary, approval });
}

const tableOf = (rows) =>
  Object.fromEntries(
    ["uid", "name", "status", "reason"].map((column) => [column, rows.map((row) => row[column] ?? null)]),
  );
const device = (uid, status, values = {}) => ({ uid, name: `PC-${uid}`, status, ...values });

function listOf(...runs) {
  const list = new AttentionList();
  for (const [run, rows] of runs) list.add(run, tableOf(rows));
  return list;
}

const shown = (list) => list.rows().map(({ uid, status, runs }) => `${uid} ${status} ${runs}`);

test("canonicalUid: case, blanks and missing hyphens do not make another device", () => {
  assert.equal(canonicalUid(` ${UID.toUpperCase()} `), UID);
  assert.equal(canonicalUid(UID.replaceAll("-", "").toUpperCase()), UID);
  assert.equal(canonicalUid("Not-A-Uid"), "not-a-uid");
  assert.equal(canonicalUid(null), "");
});

test("deviceKey: by tenant and uid, without a uid by the name", () => {
  assert.equal(deviceKey("acme", UID.toUpperCase(), "A"), deviceKey("acme", UID, "B"));
  assert.notEqual(deviceKey("acme", UID, "A"), deviceKey("globex", UID, "A"));
  assert.equal(deviceKey("acme", null, "PC-1 "), deviceKey("acme", "", "pc-1"));
  assert.notEqual(deviceKey("acme", null, "PC-1"), deviceKey("acme", "pc-1", "PC-1"));
});

test("AttentionList: each device once with its newest state, whatever the order of the runs", () => {
  const older = [runOf(1), [device("a", "UNKNOWN"), device("b", "FAILED")]];
  const newer = [runOf(2), [device("A", "FAILED"), device("c", "INVALID")]];
  assert.deepEqual(shown(listOf(older, newer)), ["A FAILED 2", "c INVALID 1", "b FAILED 1"]);
  assert.deepEqual(shown(listOf(newer, older)), ["A FAILED 2", "c INVALID 1", "b FAILED 1"]);
});

test("AttentionList: a device that is twice in one list counts one run", () => {
  assert.deepEqual(shown(listOf([runOf(1), [device("a", "REJECTED"), device("a", "REJECTED")]])), ["a REJECTED 1"]);
});

test("AttentionList: scheduled or excluded by a newer run of the tenant is settled", () => {
  const list = listOf([runOf(5), ["a", "b", "c", "d", "e"].map((uid) => device(uid, "FAILED"))]);
  assert.equal(
    list.settle(runOf(6), tableOf([device("A", "SCHEDULED"), device("b", "EXCLUDED"), device("c", "DUPLICATE")])),
    true,
  );
  list.settle(runOf(6, { instance: "globex" }), tableOf([device("d", "SCHEDULED")]));
  list.settle(runOf(4), tableOf([device("e", "SCHEDULED")])); // before
  assert.deepEqual(shown(list), ["c FAILED 1", "d FAILED 1", "e FAILED 1"]);
  assert.equal(list.settle(runOf(7), tableOf([device("a", "SCHEDULED")])), false); // it was already
});

test("AttentionList: failed again after it was scheduled is in the list", () => {
  const list = listOf([runOf(1), [device("a", "FAILED")]], [runOf(3), [device("a", "UNKNOWN")]]);
  list.settle(runOf(2), tableOf([device("a", "SCHEDULED")]));
  assert.deepEqual(shown(list), ["a UNKNOWN 2"]);
});

test("AttentionList: rows that a blocked run did not send are not listed one by one", () => {
  const blocked = runOf(1, { error: { type: "NexthinkGuardError", message: "", sent_nothing: true } });
  assert.deepEqual(shown(listOf([blocked, [device("a", "NOT_SENT"), device("b", "INVALID")]])), ["b INVALID 1"]);
});

test("AttentionList.needs: newer real runs of the tenant that scheduled or excluded something", () => {
  const list = listOf([runOf(5), [device("a", "FAILED")]]);
  const rows = [device("a", "SCHEDULED")];
  assert.equal(list.needs(runOf(6, { rows })), true);
  assert.equal(list.needs(runOf(6, { rows: [device("a", "EXCLUDED")] })), true);
  assert.equal(list.needs(runOf(4, { rows })), false);
  assert.equal(list.needs(runOf(6, { rows: [device("a", "FAILED")] })), false);
  assert.equal(list.needs(runOf(6, { rows, dry_run: true })), false);
  assert.equal(list.needs(runOf(6, { rows, instance: "globex" })), false);
});

test("AttentionList: 100,000 rows and 20 newer runs of as many take a moment", () => {
  const rows = Array.from({ length: 100_000 }, (_, at) =>
    device(`00000000-0000-4000-8000-${at.toString(16).padStart(12, "0")}`, "FAILED"),
  );
  const settled = tableOf(rows.slice(0, 50_000).map((row) => ({ ...row, status: "SCHEDULED" })));
  const list = listOf([runOf(1), rows]);
  for (let day = 2; day < 22; day += 1) list.settle(runOf(day), settled);
  assert.equal(list.rows().length, 50_000);
});

test("openRuns: blocked, failed and awaiting approval; repeats once; with a later run that ended", () => {
  const error = { type: "NexthinkGuardError", message: "too many", sent_nothing: true };
  const runs = [
    runOf(1, { error, state: "failed" }),
    runOf(2, { error, state: "failed" }),
    runOf(3, { error: { ...error, message: "others" }, state: "failed" }),
    runOf(4, { rows: [device("a", "SCHEDULED")] }),
    runOf(5, { error, dry_run: true, state: "failed" }),
    runOf(6, { rows: [device("a", "PLANNED")], dry_run: true, approval: { address: "/approve", subject: "Delete?" } }),
    runOf(7, { error, dag_id: "other", state: "failed" }),
  ];
  const found = openRuns(runs).map(({ run, repeats, later }) => [
    run.run_id,
    run.state,
    repeats,
    later?.run_id ?? null,
  ]);
  assert.deepEqual(found, [
    ["manual__7", "blocked", 0, null],
    ["manual__6", "approval", 0, null],
    ["manual__3", "blocked", 0, "manual__4"],
    ["manual__2", "blocked", 1, "manual__4"],
  ]);
});

test("reasonsOf: the most frequent first", () => {
  const rows = [
    device("a", "FAILED", { reason: "x" }),
    device("b", "UNKNOWN", { reason: "y" }),
    device("c", "UNKNOWN", { reason: "y" }),
  ];
  const explain = ({ reason }) => ({ reason: reason.toUpperCase(), remedy: `do ${reason}` });
  assert.deepEqual(reasonsOf(rows, explain), [
    { reason: "Y", remedy: "do y", status: "UNKNOWN", count: 2 },
    { reason: "X", remedy: "do x", status: "FAILED", count: 1 },
  ]);
});

test("uidHeader: keeps the kind of uid", () => {
  assert.equal(uidHeader("device.uid"), "device.uid");
  assert.equal(uidHeader("Device UID"), "device.uid");
  assert.equal(uidHeader("device.collector.uid"), "device.collector.uid");
  assert.equal(uidHeader("uid"), "uid");
  assert.equal(uidHeader(null), "uid");
});

test("listsToRun: only what a retry can change, each tenant and kind of uid by itself", () => {
  const row = (uid, status, values) => ({ uid, status, run: runOf(1, values) });
  const { lists, left } = listsToRun([
    row("a", "FAILED", { uid_column: "device.uid" }),
    row("b", "UNKNOWN", { uid_column: "device.uid" }),
    row("c", "NOT_SENT", { uid_column: "device.collector.uid" }),
    row("d", "FAILED", { uid_column: "device.uid", instance: "globex" }),
    row("e", "INVALID"),
    row("f", "REJECTED"),
  ]);
  assert.equal(left, 2);
  assert.deepEqual(
    lists.map(({ tenant, header, rows }) => [tenant, header, rows.map(({ uid }) => uid).join("")]),
    [
      ["acme", "device.uid", "ab"],
      ["acme", "device.collector.uid", "c"],
      ["globex", "device.uid", "d"],
    ],
  );
});

test("matcher: part of the name or uid in any case, a uid also without hyphens", () => {
  assert.ok(matcher("top-0001")(UID, "LAPTOP-000172"));
  assert.ok(matcher("7706-434A")(UID, null));
  assert.ok(matcher(UID.replaceAll("-", ""))(UID, "x"));
  assert.ok(!matcher("laptop-2")(UID, "LAPTOP-1"));
  assert.ok(matcher("")(null, null));
});

const hit = (day, uid, status, values = {}) => ({ ...device(uid, status), run: runOf(day, values) });

test("answerTo: the newest row of a real run, and a dry run after it", () => {
  const hits = [
    hit(4, "a", "PLANNED", { dry_run: true }),
    hit(3, "a", "DUPLICATE"),
    hit(3, "A", "SCHEDULED"),
    hit(2, "a", "FAILED"),
  ];
  const { devices, last, planned } = answerTo("pc-a", hits);
  assert.equal(devices.length, 1);
  assert.deepEqual([last.status, planned.status], ["SCHEDULED", "PLANNED"]);
  const before = answerTo("pc-a", [hit(3, "a", "SCHEDULED"), hit(2, "a", "PLANNED", { dry_run: true })]);
  assert.deepEqual([before.last.status, before.planned], ["SCHEDULED", null]);
});

test("answerTo: an exact name goes before longer ones; several devices have no single answer", () => {
  const hits = [hit(3, "10", "SCHEDULED"), hit(2, "1", "FAILED")];
  assert.equal(answerTo("PC-1", hits).last.uid, "1");
  const { devices, last } = answerTo("pc-", hits);
  assert.deepEqual([devices.map(({ uid }) => uid), last], [["10", "1"], null]);
  assert.deepEqual(answerTo("x", []), { devices: [], last: null, planned: null });
});

test("newestLooks: one of each tenant", () => {
  const look = (instance, day, task_id = "reconcile") => ({
    entry: { dag_id: "d", task_id, timestamp: `2026-11-${day}T00:00:00Z` },
    summary: { instance, by_week: [] },
  });
  const found = newestLooks([look("acme", 20), look("acme", 22, "b"), look("globex", 21), look(undefined, 19)]);
  assert.deepEqual(
    found.map(({ summary, entry }) => [summary.instance, entry.timestamp.slice(8, 10)]).sort(),
    [
      ["acme", "22"],
      ["globex", "21"],
      [undefined, "19"],
    ].sort(),
  );
});

test("byWhom: nothing where it is not known", () => {
  assert.equal(byWhom(runOf(1)), "by anna");
  assert.equal(byWhom(runOf(1, { triggered_by: null })), "");
});

test("shellWord: quoted where a shell would read it otherwise", () => {
  assert.equal(shellWord("LAPTOP-000172"), "LAPTOP-000172");
  assert.equal(shellWord("it's $HOME"), "'it'\\''s $HOME'");
  assert.equal(shellWord("--help"), "'--help'");
});
