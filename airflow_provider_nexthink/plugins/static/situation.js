// What is the case with a run, where its table does not say it: blocked, failed, in progress, not there. No I/O.

import { remedyOfError } from "./remedies.js";
import { explainState, sentNothing } from "./run.js";

const UNKNOWN = "What was sent is not known here: see the log.";
const format = new Intl.NumberFormat("en");

// {tone, title, text, remedy, canRefresh} of a run; null if its table says everything. instanceStatus: the HTTP status with
// which Airflow refused to show the task instance; null if it did not. other: an XCom "summary" that is not a deletion's.
export function situationOf(run, { instanceStatus = null, other = undefined } = {}) {
  const known = run.summary ? withSummary(run) : withoutSummary(run, instanceStatus, other);
  return known && { tone: "failed", text: "", remedy: "", canRefresh: false, ...known };
}

function withSummary(run) {
  const { summary, state } = run;
  switch (state) {
    case "running":
      return {
        ...progress(run),
        text: "Below is the outcome of the try before, or what this try has recorded so far.",
      };
    case "approval":
      return {
        tone: "approval",
        title: "Awaiting approval",
        text: "Somebody must approve or reject this plan. Nothing was sent.",
        canRefresh: true,
      };
    case "blocked":
      return blocked(summary.error);
    case "failed":
      return failed(summary);
    default:
      return null;
  }
}

function blocked(error) {
  const { reason, remedy } = remedyOfError(error);
  const isCounted = Number.isFinite(error.planned) && Number.isFinite(error.limit);
  const what = isCounted ? `${format.format(error.planned)} devices, limit ${format.format(error.limit)}` : reason;
  return { tone: "blocked", title: `Blocked: ${what}. Nothing was sent.`, text: error.message ?? "", remedy };
}

function failed(summary) {
  const { reason, remedy } = remedyOfError(summary.error);
  const text = summary.error.message ?? "";
  if (sentNothing(summary)) return { title: `Failed: ${reason}. Nothing was sent.`, text, remedy };
  if (summary.requested === null || summary.earlier_tries === null)
    return { title: `Failed: ${reason}. ${UNKNOWN}`, text, remedy };
  return { title: `Stopped: ${reason}. The table has what was sent.`, text, remedy };
}

const PROGRESS = {
  queued: "Queued",
  scheduled: "Queued",
  deferred: "Waiting for an export (deferred)",
  up_for_retry: "Waiting for its retry",
  up_for_reschedule: "Waiting (up for reschedule)",
  restarting: "Restarting",
};

const progress = ({ airflow_state }) => ({
  tone: "running",
  title: PROGRESS[airflow_state] ?? "Running",
  canRefresh: true,
});

function withoutSummary(run, instanceStatus, other) {
  if (other !== undefined) return unreadable(other);
  if (run.state === "running") {
    const isRetry = run.airflow_state === "up_for_retry";
    return {
      ...progress(run),
      text: isRetry
        ? `The try before recorded no outcome. ${UNKNOWN}`
        : "The outcome of each device appears here when the task ends.",
    };
  }
  if (instanceStatus === 404)
    return { tone: "unknown", title: "There is no such run", text: "It was deleted, or the link is wrong." };
  switch (run.airflow_state) {
    case "failed":
      return { title: "Failed", text: `The task recorded no outcome. ${UNKNOWN}` };
    case "upstream_failed":
      return { title: "Not run", text: `${explainState(run)}.` };
    case "skipped":
      return { tone: "unknown", title: "Skipped", text: "The task did not run: nothing was sent." };
    case "removed":
      return { tone: "unknown", title: "Removed", text: "The task is no longer in the Dag." };
    case null:
      if (instanceStatus === null)
        return {
          tone: "running",
          title: "Not started",
          text: "Airflow has not queued this task yet.",
          canRefresh: true,
        };
      return { tone: "unknown", title: "No outcome", text: UNKNOWN };
    default:
      return {
        tone: "unknown",
        title: "No outcome",
        text: `The task recorded none: it was marked as success, has do_xcom_push=False, is not a Nexthink deletion, or its XComs were deleted. ${UNKNOWN}`,
      };
  }
}

function unreadable(value) {
  if (typeof value === "string")
    return {
      tone: "unknown",
      title: "The outcome cannot be read here",
      text: "An XCom backend stores it outside Airflow's database. If the task has a results_path, the table is in that file.",
    };
  return { tone: "unknown", title: "Not a Nexthink deletion", text: "This task has an XCom summary of another kind." };
}
