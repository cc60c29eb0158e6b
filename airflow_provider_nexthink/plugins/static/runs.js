// The runs of the last weeks.

import { ApiError, get, xcom } from "./airflow.js";
import { chart, legend } from "./chart.js";
import { element, number, plural, time } from "./dom.js";
import { empty, failure, loading } from "./states.js";
import { ACTION_REQUIRED, count, isSummary } from "./statuses.js";

const PERIODS = { 7: "Last 7 days", 28: "Last 4 weeks", 91: "Last 3 months" };
const PAGE = 100;
const MAX_PAGES = 20;
const MAX_RUNS = 200;
const CONCURRENCY = 6;

export async function showRuns(page, query) {
  const days = PERIODS[query.get("days")] ? query.get("days") : "28";
  const dag = query.get("dag_id") ?? "";
  const body = element("div", { class: "runs" });
  page.replaceChildren(heading(days, dag), body);
  const control = new AbortController();
  window.addEventListener("pagehide", () => control.abort());
  const load = async () => {
    body.replaceChildren(loading("Loading the runs"));
    try {
      const { entries, total } = await findEntries(dag, days, control.signal);
      const runs = await readSummaries(entries, body, control.signal);
      body.replaceChildren(...overview(runs, { entries, total, dag }));
    } catch (error) {
      if (error.name !== "AbortError") body.replaceChildren(failure(error, load));
    }
  };
  await load();
}

function heading(days, dag) {
  const choose = (event) => {
    window.location.search = new URLSearchParams({ days: event.target.value, ...(dag && { dag_id: dag }) });
  };
  const period = element("select", { "aria-label": "Period", onchange: choose });
  for (const [value, label] of Object.entries(PERIODS)) period.append(element("option", { value, selected: value === days }, label));
  return element(
    "header",
    { class: "heading" },
    element("h1", {}, "Nexthink deletions"),
    dag && element("a", { class: "tag", href: `?days=${days}`, "aria-label": `Only ${dag}: show all Dags` }, dag, element("span", { "aria-hidden": "true" }, " ×")),
    element("span", { class: "grow" }),
    period,
    element("button", { type: "button", onclick: () => window.location.reload() }, "Refresh"),
  );
}

// Every deletion pushes an XCom "summary". Other operators may use that key too: isSummary tells them apart.
async function findEntries(dag, days, signal) {
  const since = new Date(Date.now() - Number(days) * 86_400_000).toISOString();
  const path = `dags/${encodeURIComponent(dag || "~")}/dagRuns/~/taskInstances/~/xcomEntries`;
  const entries = [];
  let total = 0;
  for (let page = 0; page < MAX_PAGES; page += 1) {
    const parameters = { xcom_key: "summary", run_after_gte: since, order_by: "-timestamp", limit: PAGE, offset: page * PAGE };
    const response = await get(path, parameters, signal); // Airflow 3.1 ignores order_by here
    entries.push(...response.xcom_entries);
    total = response.total_entries;
    if (entries.length >= total || response.xcom_entries.length === 0) break;
  }
  entries.sort((one, other) => other.timestamp.localeCompare(one.timestamp));
  return { entries, total };
}

// Read the summaries, newest first, several at once, until there are enough. Unreadable ones are counted.
async function readSummaries(entries, body, signal) {
  const runs = [];
  runs.unreadable = 0;
  let next = 0;
  const status = loading(`Reading ${plural(entries.length, "run")}`);
  body.replaceChildren(status);
  const read = async () => {
    while (next < entries.length && runs.length < MAX_RUNS) {
      const entry = entries[next];
      next += 1;
      try {
        const summary = await xcom(entry, "summary", signal);
        if (isSummary(summary)) runs.push({ ...entry, summary });
        else if (typeof summary === "string") runs.unreadable += 1; // a path: an XCom backend stores it elsewhere
      } catch (error) {
        if (!(error instanceof ApiError) || error.status === 401 || error.status === 0) throw error;
        runs.unreadable += 1;
      }
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, read));
  runs.sort((one, other) => other.timestamp.localeCompare(one.timestamp));
  runs.isAll = next >= entries.length && runs.length <= MAX_RUNS;
  runs.splice(MAX_RUNS); // read concurrently with the last one
  return runs;
}

function overview(runs, { entries, total, dag }) {
  const notices = [];
  if (entries.length < total) notices.push(`More than ${number(entries.length)} runs: choose a shorter period to see all of them.`);
  else if (!runs.isAll) notices.push(`Only the newest ${number(runs.length)} runs are shown: choose a shorter period.`);
  if (runs.unreadable) notices.push(`${plural(runs.unreadable, "run")} could not be read: no permission, or stored outside Airflow's database by an XCom backend.`);
  const shown = notices.map((text) => element("p", { class: "notice" }, text));
  if (runs.length === 0) {
    return [
      ...shown,
      empty(
        "No deletions in this period yet.",
        dag ? "This Dag has no finished deletion in this period." : "Finished runs of NexthinkDeleteDevicesOperator, SqlToNexthinkDeleteDevicesOperator and @task.nexthink_delete_devices appear here.",
        "Dags that you have no permission to read are not listed.",
      ),
    ];
  }
  return [...shown, tiles(runs), chartCard(runs), table(runs)];
}

function tiles(runs) {
  const sum = (statuses) => runs.reduce((total, run) => total + count(run.summary, statuses), 0);
  const attention = sum(ACTION_REQUIRED);
  const tile = (label, value, hint, tone) =>
    element("div", { class: `tile ${tone ?? ""}` }, element("span", { class: "label" }, label), element("b", {}, number(value)), element("span", { class: "hint" }, hint));
  const dry = runs.filter((run) => run.summary.dry_run).length;
  return element(
    "section",
    { class: "tiles", "aria-label": "Totals" },
    tile("Runs", runs.length, dry ? `including ${plural(dry, "dry run")}` : "no dry runs"),
    tile("Scheduled", sum(["SCHEDULED"]), "queued for deletion by Nexthink"),
    tile("Need attention", attention, "invalid, failed, unknown, not sent, rejected", attention ? "warn" : ""),
    tile("Excluded", sum(["EXCLUDED", "DUPLICATE"]), "excluded, or in the list twice"),
  );
}

function chartCard(runs) {
  const oldestFirst = [...runs].reverse();
  const canvas = element("div", { class: "canvas" });
  let drawn = 0;
  new ResizeObserver(() => {
    const width = Math.max(320, canvas.clientWidth);
    if (width === drawn) return;
    drawn = width;
    canvas.replaceChildren(chart(oldestFirst, width, address));
  }).observe(canvas);
  return element("section", { class: "card" }, element("h2", {}, "Devices of each run"), legend(runs), canvas);
}

const address = ({ dag_id, run_id, task_id, map_index }) => `?${new URLSearchParams({ dag_id, run_id, task_id, map_index })}`;

function table(runs) {
  const columns = ["Run", "Dag", "Task", "Tenant", "Devices", "Scheduled", "Planned", "Invalid", "Failed", "Other"];
  const head = element("tr", {}, columns.map((column, index) => element("th", { scope: "col", class: index > 3 && "figure" }, column)));
  const rows = runs.map((run) => {
    const { summary } = run;
    const figures = [summary.requested, ...["SCHEDULED", "PLANNED", "INVALID", "FAILED"].map((status) => count(summary, [status]))];
    const other = summary.requested - figures.slice(1).reduce((total, value) => total + value, 0);
    const tones = ["", "scheduled", "planned", "invalid", "failed", ""];
    return element(
      "tr",
      {},
      element("td", { class: "when" }, element("a", { href: address(run) }, time(run.timestamp)), summary.dry_run && element("span", { class: "badge" }, "dry run")),
      element("td", {}, run.dag_display_name ?? run.dag_id),
      element("td", {}, run.task_display_name ?? run.task_id, run.map_index >= 0 && ` [${run.map_index}]`),
      element("td", {}, String(summary.instance ?? "")),
      [...figures, other].map((value, index) => element("td", { class: `figure ${value ? `text-${tones[index]}` : "zero"}` }, number(value))),
    );
  });
  return element("section", { class: "card flush" }, element("table", {}, element("thead", {}, head), element("tbody", {}, rows)));
}
