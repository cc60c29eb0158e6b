// Times in the zone that is chosen in Airflow.

const KEY = "timezone"; // of Airflow, in the browser's storage; JSON

let chosen;
let formats = {};

// The name of the zone: the one chosen in Airflow, or that of the browser.
export function zone() {
  if (chosen === undefined) setZone(storedZone());
  return chosen;
}

export function setZone(name) {
  formats = {};
  const { timeZone } = new Intl.DateTimeFormat("en").resolvedOptions();
  try {
    new Intl.DateTimeFormat("en", { timeZone: name || timeZone }); // throws if this browser does not know the zone
    chosen = name || timeZone; // as it was chosen: the browser may have an older name for it
  } catch {
    chosen = timeZone;
  }
}

// Call back when another zone is chosen in Airflow.
export function followZone(changed) {
  window.addEventListener("storage", ({ key }) => {
    if (key !== KEY && key !== null) return;
    const before = zone();
    setZone(storedZone());
    if (zone() !== before) changed();
  });
}

function storedZone() {
  try {
    return JSON.parse(window.localStorage.getItem(KEY));
  } catch {
    return null;
  }
}

function formatter(name, options) {
  const timeZone = zone(); // first: it forgets the formatters of another zone
  formats[name] ??= new Intl.DateTimeFormat("en", { ...options, timeZone });
  return formats[name];
}

const PARTS = {
  year: "numeric",
  month: "2-digit",
  day: "2-digit",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
};

function parts(text) {
  const date = new Date(text);
  if (!text || Number.isNaN(date.getTime())) return null;
  return Object.fromEntries(
    formatter("parts", PARTS)
      .formatToParts(date)
      .map(({ type, value }) => [type, value]),
  );
}

// "2026-11-26 10:41:07"
export function time(text, { seconds = true } = {}) {
  const found = parts(text);
  if (!found) return "";
  return `${found.year}-${found.month}-${found.day} ${found.hour}:${found.minute}${seconds ? `:${found.second}` : ""}`;
}

// "2026-11-26"
export const day = (text) => time(text).slice(0, 10);

// "Europe/Berlin (GMT+1)", with the offset at this time.
export function zoneLabel(now = new Date()) {
  const offset =
    formatter("offset", { timeZoneName: "shortOffset" })
      .formatToParts(now)
      .find(({ type }) => type === "timeZoneName")?.value ?? "";
  return offset === "" || zone() === offset || zone() === "UTC" ? zone() : `${zone()} (${offset})`;
}
