// The heading of the views over all runs: their tabs, the period, and the search for a device.

import { element, select } from "./dom.js";
import { PERIODS } from "./load.js";
import { go, href } from "./route.js";
import { zoneLabel } from "./time.js";

const TABS = { "": "Runs", attention: "Attention", seats: "Seats" };

// The parameters that the views share, each with a value that can be relied on.
export function shared(query) {
  return { days: PERIODS[query.get("days")] ? query.get("days") : "28", dag_id: query.get("dag_id") ?? "" };
}

// view: the name of the view in the address; "" for the runs. refresh: reads everything again.
export function heading(query, refresh) {
  const view = query.get("view") ?? "";
  const common = shared(query);
  const kept = { ...common, view };
  const period = select("Period", Object.entries(PERIODS), common.days, (days) =>
    go({ ...Object.fromEntries(query), days, page: "" }),
  );
  const device = element("input", {
    type: "search",
    name: "q",
    value: view === "find" ? (query.get("q") ?? "") : "",
    placeholder: "Find a device",
    "aria-label": "Find a device by name or uid",
    autocomplete: "off",
    spellcheck: "false",
  });
  const find = (event) => {
    event.preventDefault();
    if (device.value.trim()) go({ ...common, view: "find", q: device.value.trim() });
  };
  return element(
    "header",
    { class: "heading" },
    element("h1", {}, "Nexthink deletions"),
    element(
      "nav",
      { class: "tabs", "aria-label": "Views" },
      Object.entries(TABS).map(([name, label]) =>
        element("a", { href: href({ ...common, view: name }), "aria-current": name === view && "page" }, label),
      ),
    ),
    common.dag_id &&
      element(
        "a",
        { class: "tag", href: href({ ...kept, dag_id: "" }), "aria-label": `Only ${common.dag_id}: show all Dags` },
        common.dag_id,
        element("span", { "aria-hidden": "true" }, " ×"),
      ),
    element("span", { class: "grow" }),
    element("form", { class: "find", role: "search", onsubmit: find }, device),
    period,
    element("span", { class: "zone", title: "The time zone chosen in Airflow" }, zoneLabel()),
    refresh && element("button", { type: "button", onclick: refresh }, "Refresh"),
  );
}
