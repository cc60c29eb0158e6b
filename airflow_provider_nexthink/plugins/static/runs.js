// The runs of a period: what needs attention, the totals, a chart and the list.

import { canvas, chart, legend } from "./chart.js";
import { element, number, plural, select } from "./dom.js";
import { heading, shared } from "./heading.js";
import { chunksLeft, loadRuns } from "./load.js";
import { inAirflow } from "./parent.js";
import { go, href } from "./route.js";
import { KINDS, STATES, dryRunOf, explainState, isShown, sorted, totalsOf, whoOf } from "./run.js";
import { empty, loading } from "./states.js";
import { GROUPS } from "./statuses.js";
import { time } from "./time.js";

const PAGE_ROWS = 50;

export async function showRuns(body, query, signal) {
  const content = element("div", { class: "runs" }, loading("Loading the runs"));
  const show = async (again) => {
    const found = await loadRuns(shared(query), {
      signal,
      again,
      progress: (runs) => content.replaceChildren(loading(`Reading ${plural(runs, "run")}`)),
    });
    if (!signal.aborted) content.replaceChildren(...overview(found, query));
  };
  const refresh = () => {
    content.replaceChildren(loading("Loading the runs"));
    return show(true).catch((error) => !signal.aborted && Promise.reject(error));
  };
  body.replaceChildren(heading(query, refresh), content);
  await show(false);
}

function overview({ runs, notices }, query) {
  const shownNotices = noticesOf(notices, runs.length).map((text) => element("p", { class: "notice" }, text));
  if (runs.length === 0) {
    return [
      ...shownNotices,
      empty(
        "No deletions in this period yet.",
        shared(query).dag_id
          ? "This Dag has started no deletion in this period."
          : "Each run of NexthinkDeleteDevicesOperator, SqlToNexthinkDeleteDevicesOperator or @task.nexthink_delete_devices appears here when it starts.",
        "To see it with a generated fleet, without a tenant: python -m airflow_provider_nexthink sandbox (Docs: See it in your own Airflow).",
        "Dags that you may not read are not listed.",
      ),
    ];
  }
  const chosen = filtersOf(query);
  const shown = sorted(
    runs.filter((run) => isShown(run, chosen)),
    chosen.sort,
  );
  const content =
    shown.length > 0
      ? [chartCard(shown), table(shown, runs, chosen, query)]
      : [empty("No run matches.", "Choose other filters.")];
  return [
    ...shownNotices,
    tiles(
      runs.filter((run) => isShown(run, { ...chosen, state: "", kind: "all" })),
      query,
    ),
    filters(runs, chosen, query),
    ...content,
  ];
}

function noticesOf({ more, chunks, unreadable }, count) {
  const found = [];
  if (chunks) found.push(`${chunksLeft(chunks)} They are in neither the list nor the totals.`);
  if (more) found.push(`Only the newest ${plural(count, "run")} of this period are shown: choose a shorter period.`);
  if (unreadable)
    found.push(
      `${plural(unreadable, "run")} could not be read: no permission, or stored outside Airflow's database by an XCom backend.`,
    );
  return found;
}

function filtersOf(query) {
  return {
    dag_id: query.get("dag_id") ?? "",
    tenant: query.get("tenant") ?? "",
    state: STATES[query.get("state")] ? query.get("state") : "",
    kind: KINDS[query.get("kind")] ? query.get("kind") : "real",
    sort: query.get("sort") ?? "-when",
    page: Math.max(1, Math.trunc(Number(query.get("page"))) || 1),
  };
}

const changed = (query, values) => ({ ...Object.fromEntries(query), page: "", ...values });

function tiles(runs, query) {
  const totals = totalsOf(runs);
  const isOpen = (run) =>
    ["blocked", "failed", "approval"].includes(run.state) && (!run.is_dry || run.state === "approval");
  const open = runs.filter(isOpen).length;
  const others = runs.filter((run) => !isOpen(run) && !run.is_dry && run.counts.attention > 0).length;
  const { days, dag_id } = shared(query);
  const tile = (label, value, hint, { tone = "", to = null } = {}) =>
    element(
      to ? "a" : "div",
      { class: `tile ${tone}`, href: to },
      element("span", { class: "label" }, label),
      element("b", {}, number(value)),
      element("span", { class: "hint" }, hint),
    );
  return element(
    "section",
    { class: "tiles", "aria-label": "Totals of the real runs" },
    tile("Scheduled", totals.scheduled, `deletions queued by Nexthink, in ${plural(totals.runs, "real run")}`),
    tile(
      "Runs to look at",
      open + others,
      `${number(open)} blocked, failed or awaiting approval, ${plural(others, "other")} with devices that need attention`,
      {
        tone: open + others ? "warn" : "",
        to: href({ view: "attention", days, dag_id }),
      },
    ),
    tile(
      "Blocked",
      totals.blocked,
      `devices in ${plural(totals.blocked_runs, "run")} that a guard stopped; nothing was sent`,
    ),
    tile("Kept back", totals.kept, "rows that an exclusion or a protect list matched, or that were in the list twice"),
  );
}

function filters(runs, chosen, query) {
  const filter = (label, name, pairs) =>
    select(label, pairs, chosen[name], (value) => go(changed(query, { [name]: value })));
  const distinct = (name) =>
    [...new Set(runs.map((run) => run[name]).filter(Boolean))].sort().map((each) => [each, each]);
  const count = (state) => runs.filter((run) => isShown(run, { ...chosen, state })).length;
  const states = Object.entries(STATES).map(([state, label]) => [state, `${label} (${number(count(state))})`]);
  return element(
    "div",
    { class: "tools", role: "group", "aria-label": "Filters" },
    filter("Kind", "kind", Object.entries(KINDS)),
    filter("State", "state", [["", "All states"], ...states]),
    filter("Dag", "dag_id", [["", "All Dags"], ...distinct("dag_id")]),
    filter("Tenant", "tenant", [["", "All tenants"], ...distinct("tenant")]),
  );
}

function chartCard(shown) {
  const oldestFirst = sorted(shown, "when");
  return element(
    "section",
    { class: "card" },
    element("h2", {}, "Devices of each run"),
    legend(shown),
    canvas("", (width) => chart(oldestFirst, width, outcomeAddress)),
  );
}

export const outcomeAddress = ({ dag_id, run_id, task_id, map_index }) => href({ dag_id, run_id, task_id, map_index });

function table(shown, all, chosen, query) {
  const pages = Math.max(1, Math.ceil(shown.length / PAGE_ROWS));
  const at = Math.min(chosen.page, pages);
  const groups = GROUPS.filter(
    ({ id }) => id !== "blocked" && (id !== "planned" || shown.some((run) => run.counts.planned)),
  );
  const columns = [
    ["when", "Started"],
    ["state", "State"],
    ["dag", "Task"],
    ["tenant", "Tenant"],
    [null, "Who and why"],
    ["devices", "Devices"],
    ...groups.map(({ id, label }) => [["scheduled", "attention"].includes(id) ? id : null, label]),
  ];
  const head = columns.map(([name, label], index) => headCell(name, label, index >= 5, chosen.sort, query));
  const rows = shown.slice((at - 1) * PAGE_ROWS, at * PAGE_ROWS).map((run) => row(run, all, groups));
  return element(
    "section",
    { class: "card flush" },
    element(
      "table",
      { class: "run-table", "aria-label": "Runs" },
      element("thead", {}, element("tr", {}, head)),
      element("tbody", {}, rows),
    ),
    pages > 1 && pager(at, pages, shown.length, query),
  );
}

function headCell(name, label, isFigure, sort, query) {
  const isSorted = name !== null && sort.replace("-", "") === name;
  const descending = isSorted && sort.startsWith("-");
  const next = isSorted
    ? descending
      ? name
      : `-${name}`
    : ["state", "dag", "tenant"].includes(name)
      ? name
      : `-${name}`;
  const link =
    name === null
      ? label
      : element(
          "a",
          { href: href(changed(query, { sort: next === "-when" ? "" : next })) },
          label,
          isSorted && element("span", { "aria-hidden": "true" }, descending ? " ↓" : " ↑"),
        );
  return element(
    "th",
    { scope: "col", class: isFigure && "figure", "aria-sort": isSorted && (descending ? "descending" : "ascending") },
    link,
  );
}

function row(run, all, groups) {
  const dry = dryRunOf(run, all);
  const figure = (value, tone, label) =>
    element("td", { class: `figure ${value ? `text-${tone}` : "zero"}`, "data-label": label }, number(value));
  const why = run.summary?.reason;
  return element(
    "tr",
    { class: `state-${run.state}` },
    element(
      "td",
      { class: "when", "data-label": "Started" },
      element("a", { href: outcomeAddress(run) }, time(run.when) || "not started"),
    ),
    element(
      "td",
      { "data-label": "State" },
      stateBadge(run),
      run.is_dry && element("span", { class: "badge" }, "dry run"),
      explanation(run),
    ),
    element(
      "td",
      { "data-label": "Task" },
      element("span", { class: "dag" }, run.dag),
      element("span", { class: "hint" }, run.task, run.map_index >= 0 && ` [${run.label ?? run.map_index}]`),
    ),
    element("td", { "data-label": "Tenant" }, run.tenant ?? ""),
    element(
      "td",
      { class: "why", "data-label": "Who and why" },
      element("span", {}, whoOf(run)),
      why && element("span", { class: "hint", title: why }, why),
    ),
    element(
      "td",
      { class: "figure", "data-label": "Devices" },
      number(run.total),
      dry &&
        element(
          "a",
          { class: "hint", href: outcomeAddress(dry), title: "The dry run before it" },
          `planned ${number(dry.counts.planned)}`,
        ),
    ),
    groups.map(({ id, label }) => figure(run.counts[id], id, label)),
  );
}

const stateBadge = (run) => element("span", { class: `state-badge ${run.state}` }, STATES[run.state]);

function explanation(run) {
  const text = explainState(run);
  if (!text) return null;
  return element(
    "span",
    { class: "hint explanation", title: text },
    run.state === "approval" ? element("a", inAirflow(run.approval.address), text) : text,
  );
}

function pager(at, pages, count, query) {
  const to = (page, label) =>
    page < 1 || page > pages
      ? element("span", { class: "zero" }, label)
      : element("a", { href: href(changed(query, { page: page === 1 ? "" : page })) }, label);
  return element(
    "nav",
    { class: "pager", "aria-label": "Pages" },
    to(at - 1, "Previous"),
    element("span", {}, `Page ${number(at)} of ${number(pages)}, ${plural(count, "run")}`),
    to(at + 1, "Next"),
  );
}
