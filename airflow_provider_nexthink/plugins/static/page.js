// Which of the two views: the runs, or the table of one.

import { asked, followTheme } from "./airflow.js";
import { showOutcome } from "./outcome.js";
import { showRuns } from "./runs.js";
import { failure } from "./states.js";

followTheme();

const page = document.getElementById("page");
const query = asked();
const show = query.has("run_id") && query.has("task_id") ? showOutcome : showRuns;
try {
  await show(page, query);
} catch (error) {
  page.replaceChildren(failure(error, () => window.location.reload()));
}
page.removeAttribute("aria-busy");
