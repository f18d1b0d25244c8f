// The second view: /metrics read once a second while somebody looks, totals turned into rates.

import { ask, byId, bytes, make, milliseconds, percent, whole } from "./common.js";

const PERIOD_MS = 1000;
const HISTORY = 120;
const SVG = "http://www.w3.org/2000/svg";

/** Prometheus text -> name -> sum over its labels. */
export function readMetrics(text) {
  const totals = new Map();
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)/.exec(line);
    if (match && !line.startsWith("#")) totals.set(match[1], (totals.get(match[1]) ?? 0) + Number(match[2]));
  }
  return totals;
}

// A tile: title, how its number follows from two readings, how it is written, and the words below it.
const TILES = [
  ["Calls in flight", (now) => now("engine_running_calls"), whole],
  ["Pairs in the queue", (now) => now("engine_core_waiting_pairs"), whole,
    (now) => `${whole(now("engine_core_waiting_tokens"))} tokens`],
  ["Pairs a second", (_, rate) => rate("engine_core_finished_pairs_total"), whole,
    (now) => `${whole(now("engine_core_finished_pairs_total"))} since start`],
  ["Tokens a second", (_, rate) => rate("engine_core_scheduled_logical_tokens_total"), whole,
    (_, rate) => `${whole(rate("engine_core_scheduled_computed_tokens_total"))} of them computed`],
  ["Shared tokens", shared, percent,
    (now) => `${percent(1 - ratio(now("engine_core_scheduled_computed_tokens_total"),
      now("engine_core_scheduled_logical_tokens_total"), 1))} since start`],
  ["Time of a step", (_, rate) => 1000 * ratio(rate("engine_core_device_seconds_total"), rate("engine_core_steps_total"), 0),
    milliseconds, (_, rate) => `${rate("engine_core_steps_total").toFixed(1)} steps a second`],
  ["Fill of a step", (now, rate) => ratio(rate("engine_core_scheduled_computed_tokens_total"),
    rate("engine_core_steps_total") * now("engine_core_token_budget") / (now("engine_core_replicas") || 1), 0), percent,
    (now) => `of ${whole(now("engine_core_token_budget") / (now("engine_core_replicas") || 1))} tokens`],
  ["Device busy", (now, rate) => Math.min(1, rate("engine_core_device_seconds_total") / (now("engine_core_replicas") || 1)),
    percent, (now) => `${whole(now("engine_core_replicas"))} ${now("engine_core_replicas") === 1 ? "replica" : "replicas"}`],
  ["Keys and values in use", (now) => now("engine_core_kv_used_tokens") * bytesPerToken(now), bytes,
    (now) => `of ${bytes(now("engine_core_kv_capacity_bytes"))}`],
  ["Kept between calls", (now) => now("engine_core_prefix_store_bytes"), bytes,
    (now) => `${whole(now("engine_core_prefix_hits_total"))} hits in ${whole(now("engine_core_prefix_lookups_total"))} look-ups`],
  ["Weights", (now) => now("engine_core_weight_bytes"), bytes],
  ["Answered with errors", (now) => now("engine_errors_total"), whole,
    (now) => `${whole(now("engine_cancelled_total"))} left by their client`],
];

const ratio = (part, total, otherwise) => (total > 0 ? part / total : otherwise);
const bytesPerToken = (now) => ratio(now("engine_core_kv_capacity_bytes"), now("engine_core_kv_capacity_tokens"), 0);

function shared(_, rate) {
  return Math.max(0, 1 - ratio(rate("engine_core_scheduled_computed_tokens_total"),
    rate("engine_core_scheduled_logical_tokens_total"), 1));
}

class Tile {
  constructor([title, value, write, below]) {
    Object.assign(this, { value, write, below, history: [] });
    const node = make("article", "tile", undefined, byId("tiles"));
    make("h3", "", title, node);
    this.now = make("p", "now", "–", node);
    this.note = make("p", "quiet", "", node);
    this.chart = document.createElementNS(SVG, "svg");
    this.chart.setAttribute("viewBox", `0 0 ${HISTORY - 1} 40`);
    this.chart.setAttribute("preserveAspectRatio", "none");
    this.chart.setAttribute("aria-hidden", "true");
    for (const shape of ["polygon", "polyline"]) this.chart.append(document.createElementNS(SVG, shape));
    node.append(this.chart);
  }

  update(now, rate) {
    const value = this.value(now, rate);
    this.now.textContent = this.write(value);
    this.note.textContent = this.below?.(now, rate) ?? "";
    this.history = [...this.history, value].slice(-HISTORY);
    const top = Math.max(...this.history, 1e-9), first = HISTORY - this.history.length;
    const points = this.history.map((v, i) => `${first + i},${(38 - 36 * v / top).toFixed(1)}`).join(" ");
    this.chart.lastChild.setAttribute("points", points);
    this.chart.firstChild.setAttribute("points", `${first},40 ${points} ${HISTORY - 1},40`);
  }
}

const tiles = TILES.map((tile) => new Tile(tile));
let before = null;

async function read() {
  const answer = await ask("metrics");
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const totals = readMetrics(await answer.text()), at = performance.now();
  if (!totals.has("engine_core_steps_total")) throw new Error("The model is still loading.");
  const now = (name) => totals.get(name) ?? 0;
  const last = before;
  before = { totals, at };
  if (!last) return;
  const seconds = (at - last.at) / 1000;
  const rate = (name) => Math.max(0, now(name) - (last.totals.get(name) ?? 0)) / seconds;
  tiles.forEach((tile) => tile.update(now, rate));
}

let timer = null;

async function tick() {
  clearTimeout(timer);
  if (byId("engine").hidden || document.hidden) return;
  let note = "Read every second; the curves show two minutes.";
  try {
    await read();
  } catch (error) {
    before = null;
    note = error instanceof TypeError ? "The server does not answer." : error.message;
  }
  // Said to screen readers only when it changes.
  if (byId("state-note").textContent !== note) byId("state-note").textContent = note;
  clearTimeout(timer);
  timer = setTimeout(tick, PERIOD_MS);
}

for (const event of ["view", "key"]) window.addEventListener(event, tick);
document.addEventListener("visibilitychange", tick);
tick();
