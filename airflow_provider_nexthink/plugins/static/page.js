// Chooses the view by the address.

import { showAttention } from "./attention.js";
import { element } from "./dom.js";
import { showFind } from "./find.js";
import { showOutcome } from "./outcome.js";
import { parameters, start } from "./route.js";
import { showRuns } from "./runs.js";
import { showSeats } from "./seats.js";
import { failure } from "./states.js";
import { followTheme } from "./theme.js";
import { followZone } from "./time.js";

const VIEWS = { attention: showAttention, find: showFind, seats: showSeats };

const page = document.getElementById("page");
let control = new AbortController(); // of the view that is shown

async function show() {
  control.abort();
  control = new AbortController();
  const { signal } = control;
  const query = parameters();
  const view = query.has("run_id") && query.has("task_id") ? showOutcome : (VIEWS[query.get("view")] ?? showRuns);
  const body = element("div", { class: "view" });
  const filter = document.activeElement?.matches("select") ? document.activeElement.getAttribute("aria-label") : null;
  page.replaceChildren(body);
  page.setAttribute("aria-busy", "true");
  document.title = "Nexthink deletions";
  try {
    await view(body, query, signal);
  } catch (error) {
    if (signal.aborted) return;
    body.replaceChildren(failure(error, show));
  }
  if (signal.aborted) return;
  page.removeAttribute("aria-busy");
  // A filter shows the view again: who chooses with the arrow keys goes on in it.
  if (filter && document.activeElement === document.body)
    page.querySelector(`select[aria-label="${CSS.escape(filter)}"]`)?.focus({ preventScroll: true });
}

document.addEventListener("keydown", (event) => {
  const search = page.querySelector("input[type=search]");
  if (event.key !== "/" || !search || event.target.matches("input, textarea, select")) return;
  event.preventDefault();
  search.focus();
});
followTheme();
followZone(show);
start(show);
