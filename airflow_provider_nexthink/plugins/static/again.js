// Rows are run again with the on-demand Dag: they are copied, and pasted into its form. Airflow 3.1 to 3.3 has no address that opens
// the form filled in.

import { ApiError, dagAddress, get } from "./airflow.js";
import { copyText, tabSeparated } from "./clipboard.js";
import { listsToRun } from "./devices.js";
import { element, number, plural } from "./dom.js";
import { clickInAirflow } from "./parent.js";

const ON_DEMAND = "nexthink_delete_on_demand";
const FORM_DEVICES = 100; // its max_devices
const MAX_DEVICES = 2000; // of a list in a form: Airflow keeps the form's content with the run

// Whether the Dag is there, and this person may read it.
export async function canRunAgain(signal) {
  try {
    await get(`dags/${ON_DEMAND}`, {}, signal);
    return true;
  } catch (error) {
    if (error instanceof ApiError && (error.status === 403 || error.status === 404)) return false;
    throw error;
  }
}

export const noRunAgain = `To run rows again from here, add the Dag ${ON_DEMAND} to Airflow (in the documentation: On demand).`;

// Fill the panel with what to do; where there is one list, copy it.
export async function showRunAgain(panel, rows) {
  const { lists, left } = listsToRun(rows);
  const count = lists.reduce((sum, list) => sum + list.rows.length, 0);
  const close = () => {
    panel.hidden = true;
  };
  const parts = lists.map((list) => copyPart(list, lists.length));
  panel.hidden = false;
  const content = [
    element(
      "div",
      { class: "panel-head" },
      element("h2", { tabindex: "-1" }, count > 0 ? `Run ${plural(count, "device")} again` : "Nothing to run again"),
      element("button", { type: "button", onclick: close }, "Close"),
    ),
    left > 0 &&
      element(
        "p",
        {},
        `${plural(left, "row")} INVALID or REJECTED: left out, since a retry would not change them. Correct them in the list that they come from.`,
      ),
    lists.length > 1 && element("p", {}, "A list must not mix tenants or kinds of uid: run each of these by itself."),
    ...parts.map(({ node }) => node),
    count > 0 && steps(lists),
  ];
  panel.replaceChildren(...content.filter(Boolean));
  if (parts.length === 1) await parts[0].copy();
  panel.querySelector(".to-copy, .panel-head h2").focus();
}

function copyPart({ tenant, header, rows }, lists) {
  const result = element("span", { class: "hint", role: "status" });
  const place = element("div", { class: "place" });
  const tooMany = rows.length > MAX_DEVICES;
  const copy = async () => {
    if (tooMany) return;
    const text = tabSeparated([header, "name"], ["uid", "name"], rows);
    result.textContent = (await copyText(text, place)) ? "Copied." : "";
  };
  const of = lists > 1 ? ` of ${tenant ?? "an unknown tenant"}, ${header}` : "";
  return {
    copy,
    node: element(
      "div",
      { class: "copy-part" },
      element(
        "button",
        { type: "button", disabled: tooMany, onclick: copy },
        `Copy ${plural(rows.length, "device")}${of}`,
      ),
      result,
      tooMany &&
        element(
          "span",
          { class: "hint" },
          `More than ${number(MAX_DEVICES)} do not fit into the form: filter the list.`,
        ),
      place,
    ),
  };
}

function steps(lists) {
  const open = (event) => {
    event.preventDefault();
    clickInAirflow({ href: dagAddress(ON_DEMAND), target: "_blank", rel: "noopener" });
  };
  const most = Math.max(...lists.map(({ rows }) => rows.length));
  const tenants = [...new Set(lists.map(({ tenant }) => tenant).filter(Boolean))].join(", ");
  return element(
    "ol",
    {},
    element(
      "li",
      {},
      "Open ",
      element("a", { href: dagAddress(ON_DEMAND), target: "_blank", rel: "noopener", onclick: open }, ON_DEMAND),
      " (in a new tab) and press Trigger.",
    ),
    element("li", {}, "Paste them into the form, into Devices, pasted."),
    most > FORM_DEVICES &&
      element("li", {}, `Set max_devices to ${number(most)}: its default is ${number(FORM_DEVICES)}.`),
    element(
      "li",
      {},
      "Leave dry_run on, and look at what it plans. Then run it once more with dry_run off and a reason.",
    ),
    tenants && element("li", {}, `The Dag deletes in the tenant of its connection: that must be ${tenants}.`),
  );
}
