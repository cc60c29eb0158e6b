// What the page shows is in its address: the view, the filters, the run. So it can be reloaded, shared and gone back to.
//
// The page never leaves its document. Each view is one entry of the browser's history, made in the frame; the address
// of the document around it, which a person sees and copies, is kept equal.

import { pluginWindow } from "./parent.js";

let render = () => {};

// The parameters of the address.
export function parameters() {
  return new URLSearchParams(window.location.search);
}

// Show a view now, and whenever the address changes.
export function start(show) {
  render = show;
  const outer = pluginWindow();
  if (outer && parameters().size === 0) replace(new URLSearchParams(outer.location.search)); // of a link from a task
  else follow();
  window.addEventListener("popstate", () => {
    follow();
    render();
  });
  document.addEventListener("click", onClick);
  if (outer) followOuter(outer);
  render();
}

// The address of a view: its parameters, without those that are empty.
export function href(values) {
  return `?${cleaned(values)}`;
}

// Go to a view, as a new entry of the history.
export function go(values) {
  const search = href(values);
  if (search !== (window.location.search || "?")) window.history.pushState(null, "", address(search));
  follow();
  render();
}

// Change parameters of the address without a new entry: a search that is being typed, a filter.
export function change(values) {
  replace(cleaned({ ...Object.fromEntries(parameters()), ...values }));
}

function replace(query) {
  window.history.replaceState(null, "", address(`?${query}`));
  follow();
}

const address = (search) => `${window.location.pathname}${search === "?" ? "" : search}`;

function cleaned(values) {
  const present = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(present);
}

function follow() {
  const outer = pluginWindow();
  if (!outer || outer.location.search === window.location.search) return;
  const { pathname, hash } = outer.location;
  outer.history.replaceState(outer.history.state, "", `${pathname}${window.location.search}${hash}`);
}

// A click on this page's entry in Airflow's menu changes the address around the frame, and nothing else.
function followOuter(outer) {
  const control = new AbortController();
  window.addEventListener("pagehide", () => control.abort());
  const onChange = () => {
    const search = pluginWindow()?.location.search;
    if (search === undefined || search === window.location.search) return;
    replace(new URLSearchParams(search));
    render();
  };
  outer.navigation?.addEventListener("currententrychange", onChange, { signal: control.signal });
}

function onClick(event) {
  if (event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey)
    return;
  const search = event.target.closest?.("a[href^='?']")?.getAttribute("href");
  if (!search) return;
  event.preventDefault();
  go(Object.fromEntries(new URLSearchParams(search)));
}
