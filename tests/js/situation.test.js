// What the outcome view says of a run whose table does not say it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { toRun } from "../../airflow_provider_nexthink/plugins/static/run.js";
import { situationOf } from "../../airflow_provider_nexthink/plugins/static/situation.js";

const entry = { dag_id: "stale", run_id: "manual__1", task_id: "delete", map_index: -1 };
const run = (state, summary = null, approval = null) =>
  toRun({
    entry,
    instance: state === undefined ? null : { ...entry, dag_run_id: entry.run_id, state },
    summary,
    approval,
  });
const summary = (values) => ({ requested: 3, SCHEDULED: 0, dry_run: false, ...values });
const error = (type, message, values = {}) => ({ error: { type, message, sent_nothing: true, ...values } });
const KNOWN_ONLY_IN_THE_LOG = "What was sent is not known here: see the log.";

test("a run with a table and no error needs no words", () => {
  assert.equal(situationOf(run("success", summary({ SCHEDULED: 3 }))), null);
  assert.equal(situationOf(run("failed", summary({ FAILED: 1 }))), null);
});

test("a guard: how many, the limit, that nothing was sent, and what to do", () => {
  const found = situationOf(
    run(
      "failed",
      summary(
        error("NexthinkGuardError", "more than max_devices=500 of the task allows", { planned: 80_003, limit: 500 }),
      ),
    ),
  );
  assert.equal(found.title, "Blocked: 80,003 devices, limit 500. Nothing was sent.");
  assert.match(found.remedy, /raise max_devices/);
  assert.deepEqual([found.tone, found.canRefresh], ["blocked", false]);
});

test("a policy: the reason", () => {
  const found = situationOf(run("failed", summary(error("NexthinkPolicyError", "Deletions are off: the extra"))));
  assert.equal(found.title, "Blocked: Deletions are off. Nothing was sent.");
});

test("an error says that nothing was sent only where that is known", () => {
  const title = (values, more = {}) =>
    situationOf(run("failed", summary({ ...error("NexthinkPermissionError", "403", values), ...more }))).title;
  assert.equal(title({}), "Failed: No permission (403). Nothing was sent.");
  assert.equal(title({ sent_nothing: false }), "Stopped: No permission (403). The table has what was sent.");
  assert.equal(
    title({ sent_nothing: undefined }, { requested: null }),
    `Failed: No permission (403). ${KNOWN_ONLY_IN_THE_LOG}`,
  );
  assert.equal(
    title({ sent_nothing: false }, { earlier_tries: null }),
    `Failed: No permission (403). ${KNOWN_ONLY_IN_THE_LOG}`,
  );
});

test("tasks in progress can be refreshed; others cannot", () => {
  for (const state of [
    "running",
    "queued",
    "scheduled",
    "deferred",
    "restarting",
    "up_for_retry",
    "up_for_reschedule",
    null,
  ]) {
    assert.equal(situationOf(run(state)).canRefresh, true, state);
  }
  for (const state of ["failed", "upstream_failed", "skipped", "removed", "success"]) {
    assert.equal(situationOf(run(state)).canRefresh, false, state);
  }
  assert.match(situationOf(run("up_for_retry")).text, /not known here/);
  assert.match(situationOf(run("up_for_retry", summary({}))).text, /the try before/);
});

test("a task without a summary: what its state says, and no more", () => {
  assert.ok(situationOf(run("failed")).text.endsWith(KNOWN_ONLY_IN_THE_LOG));
  assert.ok(situationOf(run("success")).text.endsWith(KNOWN_ONLY_IN_THE_LOG));
  assert.equal(situationOf(run("upstream_failed")).text, "A task before it failed: nothing sent.");
  assert.match(situationOf(run("skipped")).text, /nothing was sent/);
  assert.equal(situationOf(run(undefined), { instanceStatus: 404 }).title, "There is no such run");
  assert.equal(situationOf(run(undefined), { instanceStatus: 403 }).text, KNOWN_ONLY_IN_THE_LOG);
});

test("summaries that are not a deletion's, or are elsewhere, are told apart", () => {
  assert.equal(
    situationOf(run("success"), { other: { text: "of another operator" } }).title,
    "Not a Nexthink deletion",
  );
  assert.equal(situationOf(run("success"), { other: "s3://bucket/1.json" }).title, "The outcome cannot be read here");
});

test("a plan that waits for an approval says so", () => {
  const found = situationOf(run("success", summary({ PLANNED: 3, dry_run: true }), { address: "...", subject: "?" }));
  assert.equal(found.title, "Awaiting approval");
});
