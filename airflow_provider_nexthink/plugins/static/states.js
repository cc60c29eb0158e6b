// What is shown where there is nothing to show: loading, empty, and what went wrong.

import { element } from "./dom.js";

export function loading(text) {
  return element("div", { class: "state", role: "status" }, element("span", { class: "spinner", "aria-hidden": "true" }), element("p", {}, text));
}

export function empty(title, ...told) {
  return element("div", { class: "state" }, element("h2", {}, title), ...told.map((each) => element("p", {}, each)));
}

export function failure(error, again) {
  const [title, told] = explained(error);
  return element(
    "div",
    { class: "state error", role: "alert" },
    element("h2", {}, title),
    element("p", {}, told),
    again && element("button", { type: "button", onclick: again }, "Try again"),
  );
}

function explained(error) {
  switch (error.status) {
    case 401:
      return ["You are signed out", "Sign in to Airflow again, in this tab or another, and come back."];
    case 403:
      return ["You may not read this", "Airflow shows XComs to those who may read the Dag's XComs. Ask who gives roles in your Airflow."];
    case 404:
      return ["There is no outcome", "The task has not ended, or stopped before it had an outcome (see its log); or the run was deleted, or is no run of a Nexthink deletion."];
    case 413:
      return ["The table is too large for this page", "Set results_path on the task: the whole table is then written to a file."];
    case 0:
      return ["Airflow does not answer", "The network, or Airflow's API server, is away. Nothing is lost: what happened to the devices is stored."];
    case undefined:
      return ["This page has a fault", error.message];
    default:
      return error.status < 300
        ? ["Airflow's answer was cut off", "The table may be too large for what lies between Airflow and you. Set results_path on the task: the whole table is then written to a file."]
        : [`Airflow answered ${error.status}`, error.message];
  }
}
