// The outcome table: search, filters, the reasons with their remedies, and the file.

import { csv, fileName, likeFormulas } from "./csv.js";
import { element, number, plural } from "./dom.js";
import { grid } from "./grid.js";
import { clickInAirflow } from "./parent.js";
import { topReasons } from "./remedies.js";
import { empty } from "./states.js";
import { ACTION_REQUIRED, COLUMNS, STATUSES, groupOf } from "./statuses.js";
import { time } from "./time.js";

const SHOWN_REASONS = 4;

// The nodes of a table. chosen: the statuses to show, all if empty; text: what is searched for; onChange({q, status}) is
// called when a person changes them.
export function showTable(run, table, { chosen, text, onChange }) {
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
  let shown = all;

  const rows = grid(gridColumns(at), "Outcome of each device");
  const hint = element("span", { class: "hint", role: "status" });
  const warning = element("p", { class: "notice formulas", hidden: true });
  const nothing = element("p", { class: "nothing", hidden: true }, "No device matches.");
  const search = element("input", {
    type: "search",
    placeholder: "Device name or uid",
    "aria-label": "Search by device name or uid",
    value: text,
    autocomplete: "off",
    spellcheck: "false",
  });
  const download = element("button", { type: "button" }, "Download CSV");

  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    shown = all.filter(
      (row) =>
        (chosen.size === 0 || chosen.has(at(row, "status"))) && (wanted === "" || searched[row].includes(wanted)),
    );
    hint.textContent =
      shown.length === size ? plural(size, "row") : `${number(shown.length)} of ${plural(size, "row")}`;
    nothing.hidden = shown.length > 0;
    warning.hidden = true;
    rows.show(shown);
  };
  const filterAgain = () => {
    filter();
    onChange({ q: search.value.trim(), status: [...chosen].join(",") });
  };
  const save = () => {
    const risky = likeFormulas(shown, at).length;
    warning.textContent = `Names or uids that begin with =, +, - or @: ${number(risky)}. They are in the file verbatim; a spreadsheet may read them as formulas. Import those columns as text.`;
    warning.hidden = risky === 0;
    const address = URL.createObjectURL(new Blob(csv(COLUMNS, shown, at), { type: "text/csv;charset=utf-8" }));
    clickInAirflow({
      href: address,
      download: fileName([run.dag_id, run.task_id, ...(run.map_index >= 0 ? [run.map_index] : []), run.run_id]),
    });
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  };
  let pending = 0;
  search.addEventListener("input", () => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(filterAgain);
  });
  download.addEventListener("click", save);
  const tools = element(
    "div",
    { class: "tools" },
    search,
    statusFilters(table, chosen, filterAgain),
    element("span", { class: "ending" }, hint, download),
  );
  requestAnimationFrame(() => {
    filter();
    search.focus();
  });
  return [
    ...reasons(table, search, chosen, filterAgain),
    tools,
    warning,
    element("div", { class: "card flush table-card" }, rows.node, nothing),
  ];
}

function gridColumns(at) {
  const plain = (name, label) => ({ name, label, cell: (row) => String(at(row, name) ?? "") });
  return [
    plain("name", "Name"),
    plain("uid", "uid"),
    {
      name: "status",
      label: "Status",
      cell: (row) =>
        element(
          "span",
          { class: `status text-${groupOf[at(row, "status")] ?? ""}`, title: STATUSES[at(row, "status")] },
          String(at(row, "status")),
        ),
    },
    {
      name: "reason",
      label: "Reason",
      cell: (row) => element("span", { title: at(row, "reason") }, String(at(row, "reason") ?? "")),
    },
    { name: "submitted_at", label: "Sent", cell: (row) => time(at(row, "submitted_at")) },
    plain("attempts", "Tries"),
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
      return element(
        "button",
        {
          type: "button",
          class: "chip",
          "data-status": status,
          "aria-pressed": String(chosen.has(status)),
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
function reasons(table, search, chosen, filter) {
  const found = topReasons(table, ACTION_REQUIRED);
  if (found.length === 0) return [];
  const choose = ({ status, text }) => {
    chosen.clear();
    chosen.add(status);
    search.value = text;
    filter();
    for (const chip of document.querySelectorAll(".chip"))
      chip.setAttribute("aria-pressed", String(chip.dataset.status === status));
  };
  const item = (each) =>
    element(
      "li",
      {},
      element(
        "button",
        { type: "button", class: "link", onclick: () => choose(each) },
        `${number(each.count)} ${each.reason}`,
      ),
      element("span", { class: "hint" }, each.remedy),
    );
  const more = found.length - SHOWN_REASONS;
  return [
    element(
      "section",
      { class: "outcome-reasons card", "aria-label": "Why devices need attention" },
      element("h2", {}, "Need attention"),
      element(
        "ul",
        {},
        found.slice(0, SHOWN_REASONS).map(item),
        more > 0 && element("li", { class: "hint" }, `and ${plural(more, "other reason")}`),
      ),
    ),
  ];
}
