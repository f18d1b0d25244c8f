// What both views need: elements, numbers for people, calls with the key, and the tabs.

export const byId = (id) => document.getElementById(id);

export function make(tag, className, text, parent) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text; // never markup: documents are other people's texts
  parent?.append(node);
  return node;
}

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const whole = (n) => grouped.format(n);
export const percent = (share) => `${(100 * share).toFixed(0)} %`;
export const milliseconds = (ms) =>
  ms >= 10000 ? `${(ms / 1000).toFixed(1)} s` : `${ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2)} ms`;
export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) [n, unit] = [n / 1024, unit + 1];
  return `${unit && n < 100 ? n.toFixed(1) : n.toFixed(0)} ${units[unit]}`;
}

// -- the key: asked for when the server wants one, kept for this tab only

const KEY = "engine-api-key";
export const apiKey = () => sessionStorage.getItem(KEY) ?? "";

/** fetch on this server with the key; paths are relative, so that a prefix of a proxy stays. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (apiKey()) headers.Authorization = `Bearer ${apiKey()}`;
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) askForKey();
  return answer;
}

function askForKey() {
  if (!byId("key-form").hidden) return;
  byId("key-form").hidden = false;
  byId("key").focus();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("key").value.trim());
  byId("key-form").hidden = true;
  byId("key").value = "";
  showModel();
  window.dispatchEvent(new Event("key"));
});

async function showModel() {
  try {
    const answer = await ask("info");
    const info = await answer.json();
    byId("model").textContent = answer.ok
      ? `${info.served_model_name} · ${info.model_dtype} · up to ${whole(info.max_input_length)} tokens a pair`
      : answer.status === 401 ? "" : info.error.message;
    if (answer.ok) window.dispatchEvent(new CustomEvent("model", { detail: info }));
  } catch {
    byId("model").textContent = "The server does not answer.";
  }
}

// -- tabs, with the arrow keys as the pattern of the ARIA guide has them; the address keeps the choice

const tabs = [...document.querySelectorAll("[role=tab]")];

function choose(tab) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", chosen);
    each.tabIndex = chosen ? 0 : -1;
    byId(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  window.dispatchEvent(new Event("view"));
}

for (const tab of tabs) {
  tab.addEventListener("click", () => {
    history.replaceState(null, "", tab.id === "tab-rank" ? "#" : "#engine");
    choose(tab);
  });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
}
window.addEventListener("hashchange", () => choose(byId(location.hash === "#engine" ? "tab-engine" : "tab-rank")));
if (location.hash === "#engine") choose(byId("tab-engine"));
showModel();
