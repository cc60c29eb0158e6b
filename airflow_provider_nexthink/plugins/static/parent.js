// The document of Airflow that embeds this page; this page's own document where it is open by itself.

const PLUGIN = "/plugin/nexthink-deletions"; // URL_ROUTE in deletions.py

// Airflow's window; null if this page is open by itself, or embedded by another site.
export function airflowWindow() {
  try {
    return window.parent === window || !window.parent.document ? null : window.parent;
  } catch {
    return null;
  }
}

// Airflow's window if the page in it is this one. In a tab of a Dag or a task, the address is that of the tab.
export function pluginWindow() {
  const outer = airflowWindow();
  return outer?.location.pathname.includes(PLUGIN) ? outer : null;
}

// Airflow embeds this page in a sandboxed iframe that blocks navigation and, before 3.3, downloads.
// The parent document has the same origin and is not sandboxed, so the link is clicked there.
export function clickInAirflow(attributes) {
  const outer = (airflowWindow() ?? window).document;
  const link = outer.createElement("a");
  for (const [name, value] of Object.entries(attributes)) link.setAttribute(name, value);
  outer.body.append(link);
  link.click();
  link.remove();
}

// A link to a page of Airflow, which opens in Airflow and not in the frame.
export const inAirflow = (href) => ({
  href,
  onclick: (event) => {
    if (!airflowWindow() || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    clickInAirflow({ href });
  },
});
