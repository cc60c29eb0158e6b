// Reads the runs of a period from Airflow's API: task instances, summaries, pending approvals.

import { ApiError, approvalAddress, get, list, xcom } from "./airflow.js";
import { isQuarantine, isReconcile, isSummary, keyOf, newestFirst, toRun, wasRun } from "./run.js";

// Subclasses are found by their summary.
const DELETIONS = [
  "NexthinkDeleteDevicesOperator",
  "SqlToNexthinkDeleteDevicesOperator",
  "_NexthinkDeleteDevicesDecoratedOperator",
];
const LEDGER = ["NexthinkReconcileOperator", "NexthinkQuarantineOperator"];
const MAX_ENTRIES = 2000;
const MAX_RUNS = 200;
const MANY_CHUNKS = 100; // mapped tasks of one task in one Dag run
const CONCURRENCY = 6;

export const PERIODS = { 7: "Last 7 days", 28: "Last 4 weeks", 91: "Last 3 months" };
const DAY_MS = 86_400_000;

let loaded = null; // of the last period and Dag: going back must not read everything again

// Returns {runs, reconciles, quarantines, notices, at}: the runs newest first, and the newest summary of each task that
// reconciles or quarantines, for each tenant, as {entry, summary}. days: a key of PERIODS. dag_id: "" for all.
export async function loadRuns({ days, dag_id }, { signal, progress = () => {}, again = false }) {
  const key = JSON.stringify([days, dag_id]);
  if (again || loaded?.key !== key) loaded = { key, result: await readRuns(days, dag_id, signal, progress) };
  return loaded.result;
}

async function readRuns(days, dagId, signal, progress) {
  const since = new Date(Date.now() - Number(days) * DAY_MS).toISOString();
  const all = `dags/${encodeURIComponent(dagId || "~")}/dagRuns/~`;
  const [instances, entries, approvals] = await Promise.all([
    listInstances(all, since, signal),
    listSummaries(all, since, signal),
    listApprovals(all, signal),
  ]);
  const found = chunksLast(merge(instances.entries, entries.entries, since));
  progress(found.length);
  const { read, unreadable, unread } = await readSummaries(found, signal);
  const waiting = approvalsByRun(approvals);
  const runs = read
    .filter(
      ({ instance, summary }) =>
        isSummary(summary) ||
        (summary === null && instance && DELETIONS.includes(instance.operator) && wasRun(instance)),
    )
    .map((each) => ({
      isChunk: each.isChunk,
      run: toRun({ ...each, approval: isPlan(each.summary) ? (waiting.get(dagRunKey(each)) ?? null) : null }),
    }))
    .filter(({ run }) => run.when === null || Date.parse(run.when) >= Date.parse(since) || run.state === "running");
  const left = [...unread, ...runs.slice(MAX_RUNS)];
  return {
    runs: runs
      .slice(0, MAX_RUNS)
      .map(({ run }) => run)
      .sort(newestFirst),
    reconciles: newestOfEachTask(read.filter(({ summary }) => isReconcile(summary))),
    quarantines: newestOfEachTask(read.filter(({ summary }) => isQuarantine(summary))),
    notices: {
      more: instances.isCut || entries.isCut || left.some(({ isChunk }) => !isChunk),
      chunks: left.filter(({ isChunk }) => isChunk).length,
      // Of what was not read, all but deletions may be a look or a list: a subclass is not known by its name.
      moreLooks: instances.isCut || entries.isCut || unread.some((each) => !DELETIONS.includes(operatorOf(each))),
      unreadable,
    },
    at: new Date().toISOString(),
  };
}

async function listInstances(all, since, signal) {
  const parameters = { operator: [...DELETIONS, ...LEDGER], start_date_gte: since, order_by: "-start_date" };
  const { entries, total } = await list(
    `${all}/taskInstances`,
    "task_instances",
    parameters,
    { most: MAX_ENTRIES },
    signal,
  );
  return { entries, isCut: entries.length < total };
}

// By the time at which they were written; Airflow 3.1 has no order here.
async function listSummaries(all, since, signal) {
  const parameters = { xcom_key: "summary", order_by: "-timestamp" };
  const from = Date.parse(since);
  const times = (page) => page.map(({ timestamp }) => Date.parse(timestamp));
  const isOlder = (page) => times(page).every((time, at, every) => time < from && (at === 0 || time <= every[at - 1]));
  const { entries, total } = await list(
    `${all}/taskInstances/~/xcomEntries`,
    "xcom_entries",
    parameters,
    { most: MAX_ENTRIES, enough: isOlder },
    signal,
  );
  return { entries: entries.filter(({ timestamp }) => Date.parse(timestamp) >= from), isCut: entries.length < total };
}

async function listApprovals(all, signal) {
  try {
    return (await get(`${all}/hitlDetails`, { response_received: "false", limit: 100 }, signal)).hitl_details;
  } catch (error) {
    if (error instanceof ApiError && (error.status === 403 || error.status === 404)) return []; // no permission for these
    throw error;
  }
}

// One {instance, entry} for each task instance that is in either list, the newest first.
function merge(instances, entries) {
  const found = new Map();
  for (const instance of instances)
    found.set(keyOf({ ...instance, run_id: instance.dag_run_id }), { instance, entry: null });
  for (const entry of entries) {
    const key = keyOf(entry);
    found.set(key, { instance: found.get(key)?.instance ?? null, entry });
  }
  const time = ({ instance, entry }) => Date.parse(instance?.start_date ?? entry?.timestamp);
  return [...found.values()].sort((one, other) => time(other) - time(one));
}

// The chunks of a run at scale must not hide the other runs, nor those of them that failed: if there are many, those that
// succeeded are read last.
function chunksLast(found) {
  const task = ({ instance, entry }) => JSON.stringify([dagRunKey({ instance, entry }), (entry ?? instance).task_id]);
  const sizes = new Map();
  for (const each of found) sizes.set(task(each), (sizes.get(task(each)) ?? 0) + 1);
  const all = found.map((each) => ({
    ...each,
    isChunk: each.instance?.state === "success" && sizes.get(task(each)) > MANY_CHUNKS,
  }));
  return [...all.filter(({ isChunk }) => !isChunk), ...all.filter(({ isChunk }) => isChunk)];
}

const operatorOf = ({ instance }) => instance?.operator;

// Read the summaries, several at once, until there are enough deletions; those of the ledger all, as a look may be older
// than many deletions. Unreadable ones are counted.
async function readSummaries(found, signal) {
  const read = Array(found.length); // in their order, whichever response comes first
  const unread = [];
  let unreadable = 0;
  let next = 0;
  let deletions = 0;
  const work = async () => {
    while (next < found.length) {
      const at = next;
      const each = found[at];
      next += 1;
      if (deletions >= MAX_RUNS && !LEDGER.includes(operatorOf(each))) {
        unread.push(each);
        continue;
      }
      if (each.entry === null) {
        read[at] = { ...each, summary: null };
        continue;
      }
      try {
        const summary = await xcom(each.entry, "summary", signal);
        read[at] = { ...each, summary };
        if (isSummary(summary)) deletions += 1;
        if (typeof summary === "string") unreadable += 1; // a path: an XCom backend stores it elsewhere
      } catch (error) {
        if (!(error instanceof ApiError) || error.status === 401 || error.status === 0) throw error;
        if (error.status === 404) read[at] = { ...each, summary: null }; // a new try has deleted it in the meantime
        else unreadable += 1;
      }
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, work));
  return { read: read.filter(Boolean), unreadable, unread };
}

const dagRunKey = ({ instance, entry }) =>
  JSON.stringify([entry?.dag_id ?? instance.dag_id, entry?.run_id ?? instance.dag_run_id]);

// What a notice says of mapped tasks that were not read.
export const chunksLeft = (count) =>
  `Of tasks that are mapped more than ${MANY_CHUNKS} times, ${count.toLocaleString("en")} that succeeded were not read: at most ${MAX_RUNS} runs are.`;

const isPlan = (summary) => isSummary(summary) && summary.dry_run === true;

// The approval that a Dag run waits for, {subject, address}; null if there is none, or none that may be seen.
export async function approvalOf(entry, signal) {
  const path = `dags/${encodeURIComponent(entry.dag_id)}/dagRuns/${encodeURIComponent(entry.run_id)}`;
  return approvalsByRun(await listApprovals(path, signal)).get(dagRunKey({ entry })) ?? null;
}

function approvalsByRun(details) {
  const pending = details.filter(({ response_received }) => !response_received);
  return new Map(
    pending.map(({ subject, task_instance: instance }) => {
      const entry = { ...instance, run_id: instance.dag_run_id };
      return [dagRunKey({ instance }), { subject, address: approvalAddress(entry) }];
    }),
  );
}

// A task may look at several tenants, and tenants may have lists of one name. A summary of before the tenant was recorded
// counts unless its task has said more since.
function newestOfEachTask(read) {
  const newest = new Map();
  const tasks = new Set();
  const time = ({ entry }) => Date.parse(entry.timestamp);
  for (const { entry, summary } of [...read].sort((one, other) => time(other) - time(one))) {
    const { dag_id, task_id, map_index } = entry;
    const { instance, list_name } = summary;
    const task = JSON.stringify([dag_id, task_id, list_name ?? map_index]);
    const key = instance ? JSON.stringify([dag_id, task_id, list_name ?? null, instance]) : task;
    if (newest.has(key) || (!instance && tasks.has(task))) continue;
    tasks.add(task);
    newest.set(key, { entry, summary });
  }
  return [...newest.values()];
}
