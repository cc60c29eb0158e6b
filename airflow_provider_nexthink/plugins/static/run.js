// What is known of one deletion: a task instance of Airflow, its summary, and who has to approve it. No I/O.

import { GROUPS } from "./statuses.js";

// The state of a run: one word for the table, the filter and the badge.
export const STATES = {
  done: "Done",
  attention: "Needs attention",
  blocked: "Blocked",
  failed: "Failed",
  approval: "Awaiting approval",
  running: "Running",
  unknown: "No outcome",
};

export const KINDS = { real: "Real runs", dry: "Dry runs", all: "Real and dry runs" };

const GUARDS = ["NexthinkGuardError", "NexthinkPolicyError"];
const UNFINISHED = [
  "running",
  "queued",
  "scheduled",
  "deferred",
  "awaiting_input",
  "restarting",
  "up_for_retry",
  "up_for_reschedule",
];
const NOT_RUN = ["skipped", "removed", null];

export const keyOf = ({ dag_id, run_id, task_id, map_index }) =>
  JSON.stringify([dag_id, run_id, task_id, map_index ?? -1]);

// The newest first, and the chunks of one moment in their order: which of them was read first is chance.
export const newestFirst = (one, other) =>
  Date.parse(other.when) - Date.parse(one.when) || one.map_index - other.map_index;

// Every deletion pushes an XCom "summary". Other operators may use that key too.
const isMapping = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
export const isSummary = (value) =>
  isMapping(value) && "requested" in value && "SCHEDULED" in value && "dry_run" in value;
export const isReconcile = (value) => isMapping(value) && Array.isArray(value.by_week) && "looked_at" in value;
export const isQuarantine = (value) => isMapping(value) && "list_name" in value && "waiting" in value;

// One run. instance, entry and summary: as Airflow's API has them, null where there is none; approval: a pending
// request for approval in the same Dag run, {address, subject}.
export function toRun({ instance = null, entry = null, summary = null, approval = null }) {
  const source = { ...entry, ...instance };
  const run = {
    dag_id: source.dag_id,
    run_id: entry?.run_id ?? instance.dag_run_id,
    task_id: source.task_id,
    map_index: source.map_index ?? -1,
    dag: source.dag_display_name ?? source.dag_id,
    task: source.task_display_name ?? source.task_id,
    label: instance?.rendered_map_index ?? null,
    when: summary?.started_at ?? instance?.start_date ?? entry?.timestamp ?? null,
    airflow_state: instance?.state ?? null,
    try_number: instance?.try_number ?? summary?.try_number ?? null,
    summary,
    approval,
  };
  run.key = keyOf(run);
  // Only with a results_path is a table in a file. Airflow forgets the fields of older runs: it may have had one.
  run.may_have_file = instance?.rendered_fields?.results_path !== null;
  run.tenant = summary?.instance || null;
  run.is_dry = summary?.dry_run === true;
  run.counts = countsOf(run);
  run.total = GROUPS.reduce((sum, { id }) => sum + run.counts[id], 0);
  run.state = stateOf(run);
  return run;
}

// Whether a task instance has tried to delete devices at all.
export const wasRun = (instance) => !NOT_RUN.includes(instance.state);

const count = (summary, statuses) => statuses.reduce((total, status) => total + (Number(summary[status]) || 0), 0);

// How many devices are in each group. Of a run that sent nothing, those that it would have sent are "blocked".
function countsOf({ summary }) {
  const counts = Object.fromEntries(GROUPS.map(({ id, statuses }) => [id, summary ? count(summary, statuses) : 0]));
  if (summary && sentNothing(summary)) {
    counts.blocked = summary.error.planned ?? counts.planned + count(summary, ["NOT_SENT"]);
    counts.attention -= count(summary, ["NOT_SENT"]);
    counts.planned = 0;
  }
  return counts;
}

export const sentNothing = (summary) => summary.error?.sent_nothing === true;

function stateOf({ summary, approval, airflow_state, counts }) {
  if (UNFINISHED.includes(airflow_state)) return "running";
  if (summary === null) return airflow_state === "failed" || airflow_state === "upstream_failed" ? "failed" : "unknown";
  if (summary.error) return sentNothing(summary) && GUARDS.includes(summary.error.type) ? "blocked" : "failed";
  if (approval) return "approval";
  return counts.attention > 0 ? "attention" : "done";
}

const format = new Intl.NumberFormat("en");

// What a state means for this run, in a few words.
export function explainState(run) {
  const { summary, airflow_state, state } = run;
  const error = summary?.error;
  switch (state) {
    case "blocked":
      if (error.planned !== undefined)
        return `${format.format(error.planned)} devices, limit ${format.format(error.limit)}: nothing sent`;
      return `${error.message ?? "A guard stopped it"}`;
    case "failed":
      if (summary === null)
        return airflow_state === "upstream_failed"
          ? "A task before it failed: nothing sent"
          : "What was sent is not known here: see the log";
      return sentNothing(summary) ? `Nothing sent: ${error.message}` : error.message;
    case "running":
      return airflow_state === "up_for_retry" ? "Waiting for its retry" : airflow_state.replaceAll("_", " ");
    case "approval":
      return "Somebody must approve or reject it";
    case "unknown":
      return "The task recorded no outcome: marked as success, or its XComs are gone";
    default:
      return "";
  }
}

// Filters of the list: {dag_id, tenant, state, kind}, each "" for any.
export function isShown(run, { dag_id = "", tenant = "", state = "", kind = "real" }) {
  return (
    (dag_id === "" || run.dag_id === dag_id) &&
    (tenant === "" || run.tenant === tenant) &&
    (state === "" || run.state === state) &&
    // A plan that waits for an approval is no dry run for those who wait.
    (kind === "all" || run.state === "approval" || run.is_dry === (kind === "dry"))
  );
}

const SORT_KEYS = {
  when: (run) => Date.parse(run.when) || 0,
  devices: (run) => run.total,
  scheduled: (run) => run.counts.scheduled,
  attention: (run) => run.counts.attention,
  state: (run) => Object.keys(STATES).indexOf(run.state),
  dag: (run) => run.dag,
  tenant: (run) => run.tenant ?? "",
};

export const SORTABLE = Object.keys(SORT_KEYS);

// The runs in an order such as "-when": the newest first.
export function sorted(runs, order) {
  const [descending, name] = order.startsWith("-") ? [-1, order.slice(1)] : [1, order];
  const value = SORT_KEYS[name] ?? SORT_KEYS.when;
  const compare = (one, other) => (value(one) < value(other) ? -1 : Number(value(one) > value(other)));
  return [...runs].sort(
    (one, other) => descending * compare(one, other) || SORT_KEYS.when(other) - SORT_KEYS.when(one),
  );
}

// The sums over real runs; nothing of a dry run is in them.
export function totalsOf(runs) {
  const real = runs.filter((run) => !run.is_dry && run.summary);
  const sum = (id) => real.reduce((total, run) => total + run.counts[id], 0);
  return {
    runs: real.length,
    dry_runs: runs.filter((run) => run.is_dry).length,
    scheduled: sum("scheduled"),
    kept: sum("kept"),
    blocked_runs: real.filter((run) => run.state === "blocked").length,
    blocked: sum("blocked"),
  };
}

// The dry run before a real one: the newest of the same Dag run, or of the same task and tenant with no real run between.
export function dryRunOf(run, runs) {
  if (run.is_dry || !run.summary) return null;
  const before = runs.filter(
    (other) =>
      other.key !== run.key &&
      other.summary &&
      other.tenant === run.tenant &&
      other.dag_id === run.dag_id &&
      Date.parse(other.when) < Date.parse(run.when),
  );
  const newest = (candidates) => sorted(candidates, "-when")[0] ?? null;
  // A chunk is compared with the plan of the same chunk only: the plan of all has the others' devices, too.
  const sameIndex = before.filter((other) => other.map_index === run.map_index);
  const inDagRun = newest(sameIndex.filter((other) => other.is_dry && other.run_id === run.run_id));
  if (inDagRun) return inDagRun;
  const last = newest(sameIndex.filter((other) => other.task_id === run.task_id));
  return last?.is_dry ? last : null;
}

// The real run that followed a dry one; null if there is none.
export const realRunOf = (dry, runs) =>
  sorted(runs, "when").find((run) => !run.is_dry && dryRunOf(run, runs)?.key === dry.key) ?? null;

// Who started a run: a person, the schedule...
export function whoOf(run) {
  const by = run.summary?.triggered_by;
  if (by) return by;
  const kind = run.run_id.split("__")[0];
  return (
    { scheduled: "schedule", backfill: "backfill", asset_triggered: "asset", manual: "not recorded" }[kind] ??
    "not recorded"
  );
}

const percent = (share) => (Number.isFinite(share) ? `${Number((100 * share).toPrecision(6))} %` : null);

// The limits of a run as pairs of words and values, only those that are set.
export function limitsOf(run) {
  const limits = run.summary?.limits ?? {};
  const named = {
    max_devices: "At most",
    max_share: "Share of the fleet",
    fleet_size: "Fleet",
    max_growth: "Growth",
    quota_devices: "Quota",
    quota_days: "Quota days",
    require_proof: "Proof required",
    protect_list: "Protect list",
    exclude: "Exclude",
    protected: "Protected",
    deletions: "Deletions",
  };
  return Object.entries(named)
    .map(([name, label]) => [label, name === "max_share" ? percent(limits[name]) : limits[name]])
    .filter(
      ([, value]) =>
        value !== null && value !== undefined && value !== false && !(Array.isArray(value) && value.length === 0),
    );
}
