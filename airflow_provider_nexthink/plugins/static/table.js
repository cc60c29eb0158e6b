// Outcome tables, as columns.

import { shortXcom, xcom } from "./airflow.js";
import { manifestOf } from "./manifest.js";
import { keyOf } from "./run.js";
import { COLUMNS } from "./statuses.js";

const MAX_CACHED_ROWS = 600_000;
const MAX_MANIFEST_BYTES = 64 * 1024; // far more than it has
const NOTHING = { table: null, manifest: null };

const cache = new Map(); // by run, the least recently used first
let cachedRows = 0;

// {column: values} of an XCom with rows ("unscheduled", "earlier_tries"); null if there is none, or none that a browser
// can read.
export async function readTable(run, key, signal) {
  return (await cached(run, key, () => xcom(run, key, signal))).table;
}

// {table, manifest} of a run: its outcome table as columns, or the manifest of one that is in a file; else null.
export function readOutcome(run, signal) {
  return cached(run, "return_value", () => xcom(run, "return_value", signal));
}

// The manifest of a run, without reading a table; null if it has none.
export async function readManifest(run, signal) {
  if (!run.may_have_file) return null;
  const read = () => shortXcom(run, "return_value", MAX_MANIFEST_BYTES, signal);
  return (await cached(run, "return_value", read)).manifest;
}

async function cached(run, key, read) {
  const id = `${keyOf(run)} ${key} ${run.try_number ?? ""} ${run.summary?.finished_at ?? ""}`; // a try that ends replaces its table
  const known = cache.get(id);
  if (known) {
    cache.delete(id);
    cache.set(id, known);
    return known;
  }
  const value = await read().catch(missing);
  const found = { table: columnsOf(value), manifest: manifestOf(value) };
  if (!found.table && !found.manifest) return NOTHING;
  cache.set(id, found);
  cachedRows += rowsIn(found);
  for (const [oldest, other] of cache) {
    if (cachedRows <= MAX_CACHED_ROWS || oldest === id) break;
    cache.delete(oldest);
    cachedRows -= rowsIn(other);
  }
  return found;
}

const rowsIn = ({ table }) => (table ? sizeOf(table) : 1);

const missing = (error) => {
  if (error.status === 404) return null;
  throw error;
};

export const sizeOf = (table) => table.status.length;

// {column: values} from a list of rows or from columns; null for anything else.
export function columnsOf(value) {
  if (Array.isArray(value)) {
    if (value.some((row) => row === null || typeof row !== "object" || !("status" in row))) return null;
    return Object.fromEntries(COLUMNS.map((column) => [column, value.map((row) => row[column])]));
  }
  if (
    value === null ||
    typeof value !== "object" ||
    !["uid", "name", "status"].every((column) => Array.isArray(value[column]))
  )
    return null;
  return Object.fromEntries(COLUMNS.map((column) => [column, value[column] ?? []]));
}

// One row of a table, as a mapping.
export const rowOf = (table, at) => Object.fromEntries(COLUMNS.map((column) => [column, table[column][at] ?? null]));
