// The outcome table of one run.

import { ApiError, clickInAirflow, taskAddress, taskInstance, xcom } from "./airflow.js";
import { csv, fileName, likeFormulas } from "./csv.js";
import { duration, element, number, plural, time } from "./dom.js";
import { grid } from "./grid.js";
import { empty, failure, loading } from "./states.js";
import { COLUMNS, STATUSES, groupOf, isSummary } from "./statuses.js";

const CONFIRM_ROWS = 250_000; // larger tables are loaded on request only

export async function showOutcome(page, query) {
  const entry = {
    dag_id: query.get("dag_id") ?? "",
    run_id: query.get("run_id"),
    task_id: query.get("task_id"),
    map_index: Number(query.get("map_index") ?? -1),
  };
  document.title = `${entry.dag_id} - Nexthink deletions`;
  const control = new AbortController();
  window.addEventListener("pagehide", () => control.abort());
  const facts = element("div", { class: "facts" });
  const body = element("div", { class: "outcome" });
  page.replaceChildren(heading(entry, facts), body);
  taskInstance(entry, control.signal).then((instance) => facts.prepend(state(instance)), () => {}); // optional: the page works without it
  const load = async () => {
    body.replaceChildren(loading("Reading the outcome"));
    try {
      const summary = await xcom(entry, "summary", control.signal);
      if (!isSummary(summary)) throw new ApiError(404, "no summary");
      showFacts(facts, summary);
      if (summary.requested > CONFIRM_ROWS && !(await confirmed(body, summary.requested))) return;
      body.replaceChildren(loading(`Loading ${plural(summary.requested, "row")}`));
      body.replaceChildren(...(await outcome(entry, summary, control.signal)));
      body.querySelector("input")?.focus();
    } catch (error) {
      if (error.name !== "AbortError") body.replaceChildren(failure(error, load));
    }
  };
  await load();
}

function heading(entry, facts) {
  const inAirflow = (event) => {
    if (window.parent === window || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    clickInAirflow({ href: taskAddress(entry) });
  };
  const task = `${entry.task_id}${entry.map_index >= 0 ? ` [${entry.map_index}]` : ""}`;
  return element(
    "header",
    { class: "heading outcome-heading" },
    element("nav", { "aria-label": "Breadcrumb" }, element("a", { href: "?days=28" }, "Nexthink deletions"), element("span", { "aria-hidden": "true" }, " / "), element("a", { href: `?${new URLSearchParams({ dag_id: entry.dag_id })}` }, entry.dag_id)),
    element("h1", {}, task),
    element("p", { class: "run-id" }, entry.run_id),
    facts,
    element("a", { class: "button", href: taskAddress(entry), onclick: inAirflow }, "Task and log"),
  );
}

const state = (instance) => element("span", { class: `state-badge ${instance.state ?? ""}` }, instance.state ?? "no status");

function showFacts(facts, summary) {
  const values = {
    Tenant: summary.instance,
    Started: time(summary.started_at),
    Took: duration(summary.duration_seconds),
    Requests: summary.dry_run ? null : `${number(summary.requests ?? 0)}${summary.retries ? `, ${number(summary.retries)} of them retries` : ""}`,
    "uid from": summary.uid_column,
    "Name from": summary.name_column,
  };
  const pairs = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  facts.querySelector("dl")?.remove();
  facts.querySelector(".badge")?.remove();
  if (summary.dry_run) facts.append(element("span", { class: "badge" }, "dry run: nothing was sent"));
  facts.append(element("dl", {}, pairs.map(([label, value]) => element("div", {}, element("dt", {}, label), element("dd", {}, String(value))))));
}

function confirmed(body, rows) {
  return new Promise((resolve) => {
    const load = element("button", { type: "button", class: "primary", onclick: () => resolve(true) }, "Load it");
    body.replaceChildren(
      element("div", { class: "state" }, element("h2", {}, `A table of ${number(rows)} rows`), element("p", {}, "Loading it may take a while. With results_path, the task writes the table to a file as well."), load),
    );
  });
}

// The table, or the rows that need attention if the browser cannot read the table.
async function outcome(entry, summary, signal) {
  const table = columnsOf(await xcom(entry, "return_value", signal).catch(missing));
  if (table) return view(entry, summary, table);
  const unscheduled = columnsOf(await xcom(entry, "unscheduled", signal).catch(missing));
  const notice = element(
    "p",
    { class: "notice" },
    "The whole table cannot be shown here: the task returned a DataFrame (return_format), or its XComs are stored outside Airflow's database. ",
    unscheduled ? "These are the rows that need attention. " : "",
    "If the task has a results_path, the whole table is in that file.",
  );
  return [notice, ...(unscheduled ? view(entry, summary, unscheduled) : [])];
}

const missing = (error) => {
  if (error.status === 404) return null;
  throw error;
};

// {column: values} from a list of rows or from columns; null for anything else.
function columnsOf(value) {
  if (Array.isArray(value)) {
    if (value.some((row) => row === null || typeof row !== "object" || !("status" in row))) return null;
    return Object.fromEntries(COLUMNS.map((column) => [column, value.map((row) => row[column])]));
  }
  if (value === null || typeof value !== "object" || !["uid", "name", "status"].every((column) => Array.isArray(value[column]))) return null;
  return Object.fromEntries(COLUMNS.map((column) => [column, value[column] ?? []]));
}

function view(entry, summary, table) {
  const size = table.status.length;
  const at = (row, column) => table[column][row];
  if (size === 0) return [empty("No rows", summary.requested ? "No device needs attention." : "The list was empty: there was nothing to delete.")];
  const all = Array.from({ length: size }, (_, row) => row);
  const searched = all.map((row) => `${at(row, "name") ?? ""}\n${at(row, "uid") ?? ""}`.toLowerCase());
  const chosen = new Set();
  let shown = all;

  const rows = grid(gridColumns(at), "Outcome of each device");
  const hint = element("span", { class: "hint", role: "status" });
  const warning = element("p", { class: "notice formulas", hidden: true });
  const nothing = element("p", { class: "nothing", hidden: true }, "No device matches.");
  const search = element("input", { type: "search", placeholder: "Device name or uid", "aria-label": "Search by device name or uid", autocomplete: "off", spellcheck: "false" });
  const download = element("button", { type: "button" }, "Download CSV");

  const filter = () => {
    const text = search.value.trim().toLowerCase();
    shown = all.filter((row) => (chosen.size === 0 || chosen.has(at(row, "status"))) && (text === "" || searched[row].includes(text)));
    hint.textContent = shown.length === size ? plural(size, "row") : `${number(shown.length)} of ${plural(size, "row")}`;
    nothing.hidden = shown.length > 0;
    warning.hidden = true;
    rows.show(shown);
  };
  const save = () => {
    const risky = likeFormulas(shown, at).length;
    warning.textContent = `Names or uids that begin with =, +, - or @: ${number(risky)}. They are in the file verbatim; a spreadsheet may read them as formulas. Import those columns as text.`;
    warning.hidden = risky === 0;
    const address = URL.createObjectURL(new Blob(csv(COLUMNS, shown, at), { type: "text/csv;charset=utf-8" }));
    clickInAirflow({ href: address, download: fileName([entry.dag_id, entry.task_id, ...(entry.map_index >= 0 ? [entry.map_index] : []), entry.run_id]) });
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  };
  let pending = 0;
  search.addEventListener("input", () => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(filter);
  });
  download.addEventListener("click", save);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && event.target !== search) {
      event.preventDefault();
      search.focus();
    }
  });

  const tools = element("div", { class: "tools" }, search, statusFilters(table, chosen, filter), element("span", { class: "ending" }, hint, download));
  requestAnimationFrame(filter);
  return [tools, warning, element("div", { class: "card flush table-card" }, rows.node, nothing)];
}

function gridColumns(at) {
  const plain = (name, label) => ({ name, label, cell: (row) => String(at(row, name) ?? "") });
  return [
    plain("name", "Name"),
    plain("uid", "uid"),
    {
      name: "status",
      label: "Status",
      cell: (row) => element("span", { class: `status text-${groupOf[at(row, "status")] ?? ""}`, title: STATUSES[at(row, "status")] }, String(at(row, "status"))),
    },
    { name: "reason", label: "Reason", cell: (row) => element("span", { title: at(row, "reason") }, String(at(row, "reason") ?? "")) },
    { name: "submitted_at", label: "Sent", cell: (row) => time(at(row, "submitted_at")) },
    plain("attempts", "Attempts"),
    plain("batch", "Batch"),
    plain("request_id", "Request id"),
    plain("trace_id", "Trace id"),
  ];
}

function statusFilters(table, chosen, filter) {
  const counts = new Map();
  for (const status of table.status) counts.set(status, (counts.get(status) ?? 0) + 1);
  const known = Object.keys(STATUSES).filter((status) => counts.has(status));
  return element(
    "div",
    { class: "filters", role: "group", "aria-label": "Only these statuses" },
    known.map((status) => {
      const toggle = (event) => {
        if (!chosen.delete(status)) chosen.add(status);
        event.currentTarget.setAttribute("aria-pressed", String(chosen.has(status)));
        filter();
      };
      return element("button", { type: "button", class: "chip", "aria-pressed": "false", title: STATUSES[status], onclick: toggle }, element("span", { class: `swatch fill-${groupOf[status]}` }), status, element("b", {}, number(counts.get(status))));
    }),
  );
}
