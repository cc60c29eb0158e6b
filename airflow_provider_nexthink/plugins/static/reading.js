// Reads tables of many runs, several at once.

import { ApiError } from "./airflow.js";
import { readManifest, readOutcome, readTable } from "./table.js";

const CONCURRENCY = 6;

export const MAX_ROWS = 200_000; // larger tables are not read unasked

// Call work(item) for each item, in their order, a few at a time, until there are enough.
export async function inParallel(items, work, { signal, enough = () => false }) {
  let next = 0;
  const worker = async () => {
    while (next < items.length && !enough()) {
      signal.throwIfAborted();
      const item = items[next];
      next += 1;
      try {
        await work(item);
      } catch (error) {
        next = items.length; // the others stop, too
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, worker));
}

// A table; null if there is none, or it cannot be read: one run must not hide the others.
export const tableOrNull = (run, key, signal) => orNull(readTable(run, key, signal), signal);

// {table, manifest} of a run; both null likewise.
export const outcomeOrNull = async (run, signal) =>
  (await orNull(readOutcome(run, signal), signal)) ?? { table: null, manifest: null };

// The manifest of a run; null likewise. No table is read.
export const manifestOrNull = (run, signal) => orNull(readManifest(run, signal), signal);

async function orNull(reading, signal) {
  try {
    return await reading;
  } catch (error) {
    if (signal.aborted || !(error instanceof ApiError) || error.status === 401 || error.status === 0) throw error;
    return null;
  }
}

// The devices that earlier tries of a run had to send and that are not in its table; null if there are none.
export async function earlierTries(run, signal) {
  return run.summary.earlier_tries ? tableOrNull(run, "earlier_tries", signal) : null;
}
