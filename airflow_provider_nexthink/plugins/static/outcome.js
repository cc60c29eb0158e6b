// The outcome of one run: what is known of it, and the table with each device.

import { ApiError, taskAddress, taskInstance, xcom } from "./airflow.js";
import { COMPARED_DAYS, showComparison } from "./comparison.js";
import { duration, element, number, plural } from "./dom.js";
import { approvalOf, loadRuns } from "./load.js";
import { describePart } from "./manifest.js";
import { inAirflow } from "./parent.js";
import { manifestOrNull } from "./reading.js";
import { href } from "./route.js";
import { STATES, isSummary, limitsOf, toRun, whoOf } from "./run.js";
import { situationOf } from "./situation.js";
import { failure, loading } from "./states.js";
import { readOutcome, readTable, sizeOf } from "./table.js";
import { fileCard, pathLine } from "./tablefile.js";
import { showTable } from "./tableview.js";
import { time, zoneLabel } from "./time.js";

const CONFIRM_ROWS = 250_000; // larger tables are loaded on request only

export async function showOutcome(body, query, signal) {
  const entry = {
    dag_id: query.get("dag_id") ?? "",
    run_id: query.get("run_id"),
    task_id: query.get("task_id"),
    map_index: mapIndex(query.get("map_index")),
  };
  document.title = `${entry.task_id} - ${entry.dag_id} - Nexthink deletions`;
  body.replaceChildren(heading(entry), loading("Reading the outcome"));
  let instanceStatus = null; // of the response, if Airflow refuses to show the task instance: the page works without it
  const [value, instance] = await Promise.all([
    xcom(entry, "summary", signal).catch(missing),
    taskInstance(entry, signal).catch((error) => {
      instanceStatus = error.status ?? 0;
      return null;
    }),
  ]);
  const summary = isSummary(value) ? value : null;
  const approval = summary?.dry_run ? await approvalOf(entry, signal) : null;
  const run = toRun({ instance, entry, summary, approval });
  const situation = situationOf(run, { instanceStatus, other: value !== null && !summary ? value : undefined });
  const refresh = () =>
    showOutcome(body, query, signal).catch((error) => {
      if (!signal.aborted) body.replaceChildren(failure(error, refresh));
    });
  const comparison = element("div", { class: "comparison-place" });
  const content = element("div", { class: "outcome" });
  body.replaceChildren(
    heading(entry, run),
    facts(run, situation),
    ...banner(run, situation, refresh),
    comparison,
    content,
  );
  showComparison(comparison, run, findRuns(entry, signal), signal); // in the background
  if (Number.isFinite(summary?.requested)) await showRows(content, run, situation, signal);
}

// -1 also for the placeholder that Airflow leaves in the address of a tab on a task that is not mapped.
const mapIndex = (text) => (/^\d+$/.test(text ?? "") ? Number(text) : -1);

const missing = (error) => {
  if (error instanceof ApiError && error.status === 404) return null;
  throw error;
};

// The runs of the Dag, for the dry run before this one.
const findRuns = (entry, signal) =>
  loadRuns({ days: String(COMPARED_DAYS), dag_id: entry.dag_id }, { signal }).then(({ runs }) => runs);

function heading(entry, run = null) {
  const label = run?.label ?? entry.map_index;
  return element(
    "header",
    { class: "heading outcome-heading" },
    element(
      "nav",
      { "aria-label": "Breadcrumb" },
      element("a", { href: href({}) }, "Nexthink deletions"),
      element("span", { "aria-hidden": "true" }, " / "),
      element("a", { href: href({ dag_id: entry.dag_id }) }, entry.dag_id),
    ),
    element("h1", {}, `${entry.task_id}${entry.map_index >= 0 ? ` [${label}]` : ""}`),
    element("p", { class: "run-id" }, entry.run_id),
    element("a", { class: "button", ...inAirflow(taskAddress(entry)) }, "Task and log"),
  );
}

function facts(run, situation) {
  const { summary } = run;
  const limits = limitsOf(run).map(([label, value]) => `${label}: ${[value].flat().join(", ")}`);
  const requests =
    summary &&
    !summary.dry_run &&
    `${number(summary.requests ?? 0)}${summary.retries ? `, ${number(summary.retries)} of them retries` : ""}`;
  const values = {
    Tenant: run.tenant,
    Started: time(run.when) && `${time(run.when)} ${zoneLabel(new Date(run.when))}`,
    Took: duration(summary?.duration_seconds),
    By: summary && whoOf(run),
    Reason: summary?.reason,
    Requests: requests,
    Try: run.try_number > 1 && run.try_number,
    "uid from": summary?.uid_column,
    "Name from": summary?.name_column,
  };
  const pairs = Object.entries(values).filter(([, value]) => value);
  return element(
    "div",
    { class: "facts" },
    // Where the banner says more, such as "Skipped", a badge "No outcome" would contradict it.
    !situation && element("span", { class: `state-badge ${run.state}` }, STATES[run.state]),
    run.is_dry && element("span", { class: "badge" }, "dry run: nothing was sent"),
    element(
      "dl",
      {},
      pairs.map(([label, value]) => element("div", {}, element("dt", {}, label), element("dd", {}, String(value)))),
    ),
    limits.length > 0 &&
      element(
        "details",
        {},
        element("summary", {}, "Limits and exclusions"),
        element(
          "ul",
          {},
          limits.map((each) => element("li", {}, each)),
        ),
      ),
  );
}

// What a person must know before the table: why it ended, or that it has not.
function banner(run, situation, refresh) {
  if (!situation) return [];
  const { tone, title, text, remedy, canRefresh } = situation;
  return [
    element(
      "section",
      { class: `banner ${tone}`, role: canRefresh ? "status" : "alert" },
      element("h2", {}, title),
      [text, remedy].filter(Boolean).map((each) => element("p", {}, each)),
      run.state === "approval" && element("p", {}, element("a", inAirflow(run.approval.address), "Approve or reject")),
      canRefresh && element("button", { type: "button", onclick: refresh }, "Refresh"),
    ),
  ];
}

async function showRows(content, run, situation, signal) {
  const rows = run.summary.requested;
  content.replaceChildren(loading("Loading the table"));
  const isAsked = rows > CONFIRM_ROWS && !(await manifestOrNull(run, signal));
  if (isAsked && !(await confirmed(content, rows))) return;
  content.replaceChildren(loading(`Loading ${plural(rows, "row")}`));
  const { table, manifest } = await readOutcome(run, signal);
  if (manifest) {
    content.replaceChildren(fileCard(manifest), ...(await attentionOf(run, manifest, signal)));
    return;
  }
  if (table) {
    content.replaceChildren(...showTable(run, table));
    return;
  }
  const unscheduled = await readTable(run, "unscheduled", signal);
  if (!unscheduled && situation) {
    content.replaceChildren(); // a run that was blocked, failed or is not over need not have a table
    return;
  }
  const notice = element(
    "p",
    { class: "notice" },
    "The whole table cannot be shown here: the task returned a DataFrame (return_format), or its XComs are stored outside Airflow's database. ",
    unscheduled ? "These are the rows that need attention. " : "",
    "If the task has a results_path, the whole table is in that file.",
  );
  content.replaceChildren(
    notice,
    ...(unscheduled ? showTable(run, unscheduled, { attention: sizeOf(unscheduled) }) : []),
  );
}

// The rows that need attention, of a run whose table is in a file.
async function attentionOf(run, { rows, unscheduled: file }, signal) {
  if (!file) {
    const text = rows > 0 ? "No device needs attention." : "The list was empty: there was nothing to delete.";
    return [element("p", { class: "nothing" }, text)];
  }
  const table = await readTable(run, "unscheduled", signal);
  const text = table
    ? `Rows that need attention: the table below has ${describePart(sizeOf(table), file.rows)}. All are in a file:`
    : `Rows that need attention: ${number(file.rows)}. They cannot be read here. All are in a file:`;
  const notice = element(
    "section",
    { class: "notice", "aria-label": "File with the rows that need attention" },
    element("p", {}, text),
    pathLine(file.path, "Copy this path"),
  );
  return [notice, ...(table ? showTable(run, table, { attention: file.rows }) : [])];
}

function confirmed(content, rows) {
  return new Promise((resolve) => {
    const load = element("button", { type: "button", class: "primary", onclick: () => resolve(true) }, "Load it");
    content.replaceChildren(
      element(
        "div",
        { class: "state" },
        element("h2", {}, `A table of ${number(rows)} rows`),
        element(
          "p",
          {},
          'Loading it may take a while. With return_format="manifest", the task keeps a table of this size in a file.',
        ),
        load,
      ),
    );
  });
}
