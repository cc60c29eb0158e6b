// An outcome table that is in a file (return_format="manifest"): the XCom says where it is, and what is in it. No I/O.

import { STATUSES } from "./statuses.js";

// {path, rows, counts, size, checksum, unscheduled} of the value of an XCom; null for anything else. size: in bytes.
// unscheduled: {path, rows} of the file with the rows that need attention; null if there are none.
export function manifestOf(value) {
  if (!isPart(value)) return null;
  const { path, rows, size, checksum, counts, unscheduled } = value;
  return {
    path,
    rows,
    size: Number.isFinite(size) ? size : null,
    checksum: typeof checksum === "string" ? checksum : null,
    counts: counts !== null && typeof counts === "object" ? counts : {},
    unscheduled: isPart(unscheduled) && unscheduled.rows > 0 ? unscheduled : null,
  };
}

const isPart = (value) =>
  value !== null &&
  typeof value === "object" &&
  typeof value.path === "string" &&
  value.path !== "" &&
  Number.isFinite(value.rows);

// [status, ...counts] of each status that one of the mappings counts, in the order of the page.
export const countRows = (...mappings) =>
  Object.keys(STATUSES)
    .map((status) => [status, ...mappings.map((counts) => Number(counts[status]) || 0)])
    .filter(([, ...counts]) => counts.some((count) => count > 0));

const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];

// "12.3 MB": units of 1,000, as object storage counts.
export function fileSize(bytes) {
  let value = bytes;
  let at = 0;
  while (value >= 999.95 && at < UNITS.length - 1) {
    value /= 1000;
    at += 1;
  }
  const unit = { style: "unit", unit: UNITS[at], unitDisplay: at === 0 ? "long" : "short", maximumFractionDigits: 1 };
  return new Intl.NumberFormat("en", unit).format(value);
}

const format = new Intl.NumberFormat("en");

// What of the rows that need attention is shown: "the first 1,000 of 12,345 rows". all: how many there are.
export function describePart(shown, all) {
  if (shown < all) return `the first ${format.format(shown)} of ${format.format(all)} rows`;
  return all === 1 ? "the row" : `all ${format.format(all)} rows`;
}
