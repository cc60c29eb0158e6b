// The outcome table: search, filters, the reasons with their remedies, and the file.

import { csv, fileName, likeFormulas } from "./csv.js";
import { element, number, plural } from "./dom.js";
import { grid } from "./grid.js";
import { describePart } from "./manifest.js";
import { clickInAirflow } from "./parent.js";
import { explainer, topReasons } from "./remedies.js";
import { change, parameters } from "./route.js";
import { empty } from "./states.js";
import { ACTION_REQUIRED, COLUMNS, STATUSES, groupOf } from "./statuses.js";
import { time } from "./time.js";

const SHOWN_REASONS = 4;
const LONG_REASON = 44; // characters: longer ones get two lines of small type

// The nodes of a table. What is shown of it is in the address: q, status (several with commas), reason.
// attention: where these are not all rows of the run, but those that need attention: how many there are in all.
export function showTable(run, table, { attention = null } = {}) {
  const size = table.status.length;
  const at = (row, column) => table[column][row];
  if (size === 0)
    return [
      empty(
        "No rows",
        run.summary.requested ? "No device needs attention." : "The list was empty: there was nothing to delete.",
      ),
    ];
  const all = Array.from({ length: size }, (_, row) => row);
  const searched = all.map((row) =>
    `${at(row, "name") ?? ""}\n${at(row, "uid") ?? ""}\n${at(row, "reason") ?? ""}`.toLowerCase(),
  );
  const explain = explainer(table);
  const chosen = chosenOf(parameters());
  let shown = all;

  const details = element("section", {
    class: "row-details",
    "aria-label": "Selected device",
    "aria-live": "polite",
    hidden: true,
  });
  const close = () => {
    rows.clear();
    rows.node.focus();
  };
  const rows = grid(gridColumns(at), "Outcome of each device", {
    onSelect: (row) => showDetails(details, row, at, explain, close),
  });
  const hint = element("span", { class: "hint", role: "status" });
  const warning = element("p", { class: "notice formulas", hidden: true });
  const nothing = element("p", { class: "nothing", hidden: true }, "No device matches.");
  const search = element("input", {
    type: "search",
    placeholder: "Device name or uid",
    "aria-label": "Search by device name or uid",
    value: chosen.text,
    autocomplete: "off",
    spellcheck: "false",
  });
  const download = element(
    "button",
    { type: "button", title: attention !== null && `Need attention: ${describePart(size, attention)}` },
    attention === null ? "Download CSV" : "Download CSV of these rows",
  );

  const filter = () => {
    const text = chosen.text.toLowerCase();
    const isShown = (row) =>
      (chosen.statuses.size === 0 || chosen.statuses.has(at(row, "status"))) &&
      (text === "" || searched[row].includes(text)) &&
      (chosen.reason === "" || (ACTION_REQUIRED.includes(at(row, "status")) && explain(row).reason === chosen.reason));
    shown = all.filter(isShown);
    hint.textContent =
      shown.length === size ? plural(size, "row") : `${number(shown.length)} of ${plural(size, "row")}`;
    nothing.hidden = shown.length > 0;
    warning.hidden = true;
    rows.show(shown);
  };
  const choose = (values) => {
    Object.assign(chosen, values);
    change({ q: chosen.text, status: [...chosen.statuses].join(","), reason: chosen.reason });
    filter();
  };
  const save = () => {
    const risky = likeFormulas(shown, at).length;
    warning.textContent = `Names or uids that begin with =, +, - or @: ${number(risky)}. They are in the file verbatim; a spreadsheet may read them as formulas. Import those columns as text.`;
    warning.hidden = risky === 0;
    const address = URL.createObjectURL(new Blob(csv(COLUMNS, shown, at), { type: "text/csv;charset=utf-8" }));
    clickInAirflow({
      href: address,
      download: fileName([
        run.dag_id,
        run.task_id,
        ...(run.map_index >= 0 ? [run.map_index] : []),
        run.run_id,
        ...(attention === null ? [] : ["unscheduled"]),
      ]),
    });
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  };
  let pending = 0;
  search.addEventListener("input", () => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(() => choose({ text: search.value.trim() }));
  });
  download.addEventListener("click", save);
  const tools = element(
    "div",
    { class: "tools" },
    search,
    statusFilters(table, chosen, choose),
    element("span", { class: "ending" }, hint, download),
  );
  requestAnimationFrame(() => {
    filter();
    search.focus();
  });
  return [
    ...reasons(
      topReasons(table, ACTION_REQUIRED, explain),
      attention !== null && size < attention ? describePart(size, attention) : "",
      chosen,
      choose,
    ),
    tools,
    warning,
    element("div", { class: "card flush table-card" }, rows.node, nothing, details),
  ];
}

function chosenOf(query) {
  const statuses = (query.get("status") ?? "").split(",").filter((status) => status in STATUSES);
  return { text: query.get("q") ?? "", statuses: new Set(statuses), reason: query.get("reason") ?? "" };
}

function gridColumns(at) {
  const plain = (name, label) => ({ name, label, cell: (row) => String(at(row, name) ?? "") });
  return [
    plain("name", "Name"),
    plain("uid", "uid"),
    {
      name: "status",
      label: "Status",
      cell: (row) => statusText(at(row, "status")),
    },
    {
      name: "reason",
      label: "Reason",
      cell: (row) => reasonText(at(row, "reason")),
    },
    { name: "submitted_at", label: "Sent", cell: (row) => time(at(row, "submitted_at")) },
    plain("attempts", "Tries"),
    plain("batch", "Batch"),
    plain("request_id", "Request id"),
    plain("trace_id", "Trace id"),
  ];
}

const statusText = (status) =>
  element("span", { class: `status text-${groupOf[status] ?? ""}`, title: STATUSES[status] }, String(status));

const reasonText = (reason) =>
  element("span", { class: reason?.length > LONG_REASON && "long", title: reason }, String(reason ?? ""));

// All of a row, where it can be read without a mouse and on a phone.
function showDetails(node, row, at, explain, close) {
  node.hidden = row === null;
  if (row === null) return;
  const status = at(row, "status");
  const values = Object.entries({
    uid: at(row, "uid"),
    Reason: at(row, "reason"),
    "What to do": ACTION_REQUIRED.includes(status) && explain(row).remedy,
    Sent: time(at(row, "submitted_at")),
    Tries: at(row, "attempts"),
    Batch: at(row, "batch"),
    "Request id": at(row, "request_id"),
    "Trace id": at(row, "trace_id"),
  }).filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  node.replaceChildren(
    element("h2", {}, String(at(row, "name") ?? "no name"), " ", statusText(status)),
    element("button", { type: "button", "aria-label": "Close the details", onclick: close }, "×"),
    element(
      "dl",
      {},
      values.map(([label, value]) => element("div", {}, element("dt", {}, label), element("dd", {}, String(value)))),
    ),
  );
}

function statusFilters(table, chosen, choose) {
  const counts = new Map();
  for (const status of table.status) counts.set(status, (counts.get(status) ?? 0) + 1);
  const known = Object.keys(STATUSES).filter((status) => counts.has(status));
  return element(
    "div",
    { class: "filters", role: "group", "aria-label": "Only these statuses" },
    known.map((status) => {
      const toggle = (event) => {
        const statuses = new Set(chosen.statuses);
        if (!statuses.delete(status)) statuses.add(status);
        event.currentTarget.setAttribute("aria-pressed", String(statuses.has(status)));
        choose({ statuses });
      };
      return element(
        "button",
        {
          type: "button",
          class: "chip",
          "aria-pressed": String(chosen.statuses.has(status)),
          title: STATUSES[status],
          onclick: toggle,
        },
        element("span", { class: `swatch fill-${groupOf[status]}` }),
        status,
        element("b", {}, number(counts.get(status))),
      );
    }),
  );
}

// The most frequent reasons of rows that need attention, with what to do about them.
function reasons(found, part, chosen, choose) {
  if (found.length === 0) return [];
  const toggle = (event, reason) => {
    choose({ reason: chosen.reason === reason ? "" : reason });
    for (const button of event.currentTarget.closest("section").querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(button === event.currentTarget && chosen.reason === reason));
  };
  const item = ({ count, reason, remedy }) =>
    element(
      "li",
      {},
      element(
        "button",
        {
          type: "button",
          class: "link",
          "aria-pressed": String(chosen.reason === reason),
          onclick: (event) => toggle(event, reason),
        },
        `${number(count)} ${reason}`,
      ),
      element("span", { class: "hint" }, remedy),
    );
  const rest = found.slice(SHOWN_REASONS);
  return [
    element(
      "section",
      { class: "outcome-reasons card", "aria-label": "Why devices need attention" },
      element("h2", {}, part ? `Need attention: ${part}` : "Need attention"),
      element("ul", {}, found.slice(0, SHOWN_REASONS).map(item)),
      rest.length > 0 &&
        element(
          "details",
          { open: rest.some(({ reason }) => reason === chosen.reason) },
          element("summary", {}, plural(rest.length, "other reason")),
          element("ul", {}, rest.map(item)),
        ),
    ),
  ];
}
