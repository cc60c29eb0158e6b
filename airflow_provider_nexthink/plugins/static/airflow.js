// Airflow's public API and its own pages, as the person who is signed in.

const BASE = new URL("../", document.baseURI);
const API = new URL("api/v2/", BASE);
const PAGE = 100; // entries; the most that Airflow returns unless it is configured otherwise

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status; // an HTTP status; 0: no response
  }
}

// GET from the API. parameters: a list as value is repeated. read(response): returns what is in it.
export async function get(path, parameters = {}, signal = undefined, read = (response) => response.json()) {
  const address = new URL(path, API);
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of [value].flat()) address.searchParams.append(name, each);
  }
  let response;
  try {
    response = await fetch(address, { credentials: "same-origin", headers: { Accept: "application/json" }, signal });
    if (response.ok) return await read(response);
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

// All entries of a collection of the API, at most `most`, until `enough(page)`. Returns {entries, total}.
export async function list(path, key, parameters, { most, enough = () => false }, signal) {
  const entries = [];
  let total = 0;
  do {
    const page = await get(path, { ...parameters, limit: PAGE, offset: entries.length }, signal);
    entries.push(...page[key]);
    total = page.total_entries ?? entries.length;
    if (page[key].length === 0 || enough(page[key])) return { entries, total: entries.length };
  } while (entries.length < total && entries.length < most);
  return { entries, total };
}

const part = encodeURIComponent;
const instancePath = ({ dag_id, run_id, task_id }) =>
  `dags/${part(dag_id)}/dagRuns/${part(run_id)}/taskInstances/${part(task_id)}`;

// The value of an XCom, as it is stored. entry: {dag_id, run_id, task_id, map_index}.
export async function xcom(entry, key, signal) {
  return parsed((await get(...xcomAddress(entry, key), signal)).value);
}

// The same; undefined if it has more bytes than `most`: no more is read then.
export async function shortXcom(entry, key, most, signal) {
  const response = await get(...xcomAddress(entry, key), signal, (it) => jsonUpTo(it, most));
  return response && parsed(response.value);
}

const xcomAddress = (entry, key) => [
  `${instancePath(entry)}/xcomEntries/${part(key)}`,
  { map_index: entry.map_index, stringify: "false", deserialize: "false" },
];

async function jsonUpTo(response, most) {
  const reader = response.body.getReader();
  const parts = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return JSON.parse(await new Blob(parts).text());
    size += value.length;
    if (size > most) {
      await reader.cancel();
      return undefined;
    }
    parts.push(value);
  }
}

function parsed(value) {
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

// Pages of Airflow.

export function taskAddress({ dag_id, run_id, task_id, map_index }) {
  const mapped = map_index >= 0 ? `/mapped/${map_index}` : "";
  return new URL(`dags/${part(dag_id)}/runs/${part(run_id)}/tasks/${part(task_id)}${mapped}`, BASE).href;
}

export const approvalAddress = (entry) => `${taskAddress(entry)}/required_actions`;

export const dagAddress = (dagId) => new URL(`dags/${part(dagId)}`, BASE).href;
