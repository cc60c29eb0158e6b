// The theme that is chosen in Airflow: light, dark or that of the system.

const KEY = "theme"; // of Airflow, in the browser's storage

export function followTheme() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = stored();
    const isDark = chosen === "dark" || (chosen !== "light" && dark.matches);
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
  };
  apply();
  dark.addEventListener("change", apply);
  window.addEventListener("storage", apply); // changed in Airflow's document
}

function stored() {
  try {
    return window.localStorage.getItem(KEY);
  } catch {
    return null;
  }
}
