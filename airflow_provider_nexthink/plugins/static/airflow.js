// The Airflow that serves this page: its public API, its theme, its own pages.

const API = new URL("../api/v2/", document.baseURI);

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status; // an HTTP status; 0: no response
  }
}

// GET from Airflow's public API, as the person who is signed in.
export async function get(path, parameters = {}, signal = undefined) {
  const address = new URL(path, API);
  for (const [name, value] of Object.entries(parameters)) address.searchParams.set(name, value);
  let response;
  try {
    response = await fetch(address, { credentials: "same-origin", headers: { Accept: "application/json" }, signal });
    if (response.ok) return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(response?.status ?? 0, error.message);
  }
  let detail = response.statusText;
  try {
    const body = await response.json();
    if (typeof body.detail === "string") detail = body.detail;
  } catch {
    // not JSON: from a proxy
  }
  throw new ApiError(response.status, detail);
}

const part = encodeURIComponent;
const instancePath = ({ dag_id, run_id, task_id }) =>
  `dags/${part(dag_id)}/dagRuns/${part(run_id)}/taskInstances/${part(task_id)}`;

// The value of an XCom, as it is stored.
export async function xcom(entry, key, signal) {
  const parameters = { map_index: entry.map_index, stringify: "false", deserialize: "false" };
  const { value } = await get(`${instancePath(entry)}/xcomEntries/${part(key)}`, parameters, signal);
  if (typeof value !== "string") return value;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

export function taskInstance(entry, signal) {
  return get(`${instancePath(entry)}${entry.map_index >= 0 ? `/${entry.map_index}` : ""}`, {}, signal);
}

// The page of a task instance in Airflow.
export function taskAddress({ dag_id, run_id, task_id, map_index }) {
  const mapped = map_index >= 0 ? `/mapped/${map_index}` : "";
  return new URL(`../dags/${part(dag_id)}/runs/${part(run_id)}/tasks/${part(task_id)}${mapped}`, document.baseURI).href;
}

// Airflow embeds this page in a sandboxed iframe that blocks navigation and, before 3.3, downloads.
// The parent document has the same origin and is not sandboxed, so the link is clicked there.
export function clickInAirflow(attributes) {
  const outer = airflowDocument() ?? document;
  const link = outer.createElement("a");
  for (const [name, value] of Object.entries(attributes)) link.setAttribute(name, value);
  outer.body.append(link);
  link.click();
  link.remove();
}

function airflowDocument() {
  try {
    return window.parent === window ? null : window.parent.document;
  } catch {
    return null; // embedded by another site
  }
}

// Airflow stores the chosen theme under "theme": light, dark or system.
export function followTheme() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = stored("theme");
    const isDark = chosen === "dark" || (chosen !== "light" && dark.matches);
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
  };
  apply();
  dark.addEventListener("change", apply);
  window.addEventListener("storage", apply); // changed in Airflow's document
}

function stored(key) {
  try {
    return window.localStorage.getItem(key);
  } catch {
    return null;
  }
}

// The parameters of the URL. Before Airflow 3.3 a link to this page puts them into the URL of the parent document.
export function urlParameters() {
  const own = new URLSearchParams(window.location.search);
  if (own.size > 0) return own;
  const outer = airflowDocument();
  return new URLSearchParams(outer ? outer.location.search : "");
}
