// Chooses the view: the runs, or the outcome of one run.

import { urlParameters, followTheme } from "./airflow.js";
import { showOutcome } from "./outcome.js";
import { showRuns } from "./runs.js";
import { failure } from "./states.js";

followTheme();

const page = document.getElementById("page");
const query = urlParameters();
const show = query.has("run_id") && query.has("task_id") ? showOutcome : showRuns;
try {
  await show(page, query);
} catch (error) {
  page.replaceChildren(failure(error, () => window.location.reload()));
}
page.removeAttribute("aria-busy");
