// Shown in place of content: loading, empty, error.

import { element } from "./dom.js";

export function loading(text) {
  return element(
    "div",
    { class: "state", role: "status" },
    element("span", { class: "spinner", "aria-hidden": "true" }),
    element("p", {}, text),
  );
}

export function empty(title, ...hints) {
  return element("div", { class: "state" }, element("h2", {}, title), ...hints.map((each) => element("p", {}, each)));
}

export function failure(error, retry) {
  const [title, hint] = explain(error);
  return element(
    "div",
    { class: "state error", role: "alert" },
    element("h2", {}, title),
    element("p", {}, hint),
    retry && element("button", { type: "button", onclick: retry }, "Try again"),
  );
}

function explain(error) {
  switch (error.status) {
    case 401:
      return ["You are signed out", "Sign in to Airflow again, in this tab or another, and come back."];
    case 403:
      return [
        "You may not read this",
        "You need permission to read the XComs of this Dag. Ask whoever manages roles in your Airflow.",
      ];
    case 404:
      return [
        "There is no outcome",
        "The task has not finished, or ended before it had an outcome (see its log). Or the run was deleted, or is not a Nexthink deletion.",
      ];
    case 413:
      return [
        "The table is too large for this page",
        "Set results_path on the task: the whole table is then written to a file.",
      ];
    case 0:
      return [
        "Airflow does not respond",
        "The network or Airflow's API server is down. Nothing is lost: the outcome of each device is stored.",
      ];
    case undefined:
      return ["This page has a bug", error.message];
    default:
      return error.status < 300
        ? [
            "Airflow's response was cut off",
            "The table may be too large for a proxy between Airflow and your browser. Set results_path on the task: the whole table is then written to a file.",
          ]
        : [`Airflow responded with ${error.status}`, error.message];
  }
}
