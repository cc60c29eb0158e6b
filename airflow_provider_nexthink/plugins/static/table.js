// Outcome tables, as columns.

import { xcom } from "./airflow.js";
import { keyOf } from "./run.js";
import { COLUMNS } from "./statuses.js";

const MAX_CACHED_ROWS = 600_000;

const cache = new Map(); // by run, the least recently used first
let cachedRows = 0;

// {column: values} of an XCom with rows ("return_value" or "unscheduled"); null if there is none, or none that a browser can read.
export async function readTable(entry, key, signal) {
  const id = `${keyOf(entry)} ${key} ${entry.try_number ?? ""} ${entry.summary?.finished_at ?? ""}`; // a try that ends replaces its table
  const known = cache.get(id);
  if (known) {
    cache.delete(id);
    cache.set(id, known);
    return known;
  }
  const table = columnsOf(await xcom(entry, key, signal).catch(missing));
  if (table) {
    cache.set(id, table);
    cachedRows += sizeOf(table);
    for (const [oldest, other] of cache) {
      if (cachedRows <= MAX_CACHED_ROWS || oldest === id) break;
      cache.delete(oldest);
      cachedRows -= sizeOf(other);
    }
  }
  return table;
}

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
