// The form and the call: documents in three forms, one streamed answer, a stop button.

import { ask, byId, make, milliseconds, percent, whole } from "./common.js";
import { Ranking } from "./results.js";
import { showCode } from "./code.js";
import { Pictures } from "./pictures.js";

const EXAMPLE = {
  query: "how do plants turn light into energy?",
  documents: [
    "Photosynthesis lets plants convert sunlight, water and carbon dioxide into sugar and oxygen.",
    "The mitochondria release energy from sugar in animal and plant cells.",
    "Solar panels turn sunlight into electricity with the photovoltaic effect.",
    "Chlorophyll in the leaves absorbs mostly red and blue light, which drives the making of sugar.",
    "The tax office opens at nine on weekdays.",
    "A houseplant should be watered once its soil is dry to the touch.",
    "Green sea turtles eat sea grass and return to the beach where they hatched.",
    "In the Calvin cycle, the energy caught from light fixes carbon dioxide into sugar.",
  ],
};

const query = byId("query"), text = byId("documents"), list = byId("list"), instruction = byId("instruction");
const chosenForm = () => document.querySelector("[name=form]:checked").value;

function texts() {
  const form = chosenForm();
  const parts = form === "list" ? [...list.querySelectorAll("textarea")].map((area) => area.value)
    : text.value.split(form === "lines" ? /\r?\n/ : /(?:\r?\n[ \t]*){2,}/);
  return parts.map((part) => part.trim()).filter(Boolean);
}

const pictured = ({ source, text }) => (text ? { text, image: source } : { image: source });
const documents = () => [...texts(), ...documentPictures.values.map(pictured)];

export function body() {
  const question = query.value.trim(), pictures = queryPictures.values.map(({ source }) => source);
  const call = {
    query: pictures.length ? { ...(question && { text: question }), image: pictures } : question,
    documents: documents(),
  };
  if (instruction.value.trim()) call.instruction = instruction.value.trim();
  return call;
}

function changed() {
  const count = documents().length;
  byId("count").textContent = count === 1 ? "1 document" : `${whole(count)} documents`;
  query.required = !queryPictures.values.length;
  showCode(body());
}

// -- the three forms of the documents

function addDocument(value = "") {
  const item = make("li", "", undefined, list);
  const area = make("textarea", "", undefined, item);
  area.rows = 2;
  area.value = value;
  const remove = make("button", "", "Remove", item);
  remove.type = "button";
  remove.addEventListener("click", () => {
    const next = item.nextElementSibling ?? item.previousElementSibling;
    item.remove();
    (next?.querySelector("textarea") ?? byId("add")).focus();
    number();
    changed();
  });
  number();
  return area;
}

function number() {
  [...list.children].forEach((item, i) => {
    item.querySelector("textarea").setAttribute("aria-label", `Document ${i + 1}`);
    item.querySelector("button").setAttribute("aria-label", `Remove document ${i + 1}`);
  });
}

let form = "lines";

function changeForm() {
  // Taken over from the old form before the new one is shown.
  const from = form, to = chosenForm();
  const parts = from === "list" ? [...list.querySelectorAll("textarea")].map((area) => area.value.trim()).filter(Boolean)
    : text.value.split(from === "lines" ? /\r?\n/ : /(?:\r?\n[ \t]*){2,}/).map((part) => part.trim()).filter(Boolean);
  form = to;
  byId("as-text").hidden = to === "list";
  byId("as-list").hidden = to !== "list";
  if (to === "list") {
    list.replaceChildren();
    (parts.length ? parts : [""]).forEach((part) => addDocument(part));
  } else {
    text.value = (to === "lines" ? parts.map((part) => part.replace(/\s*\n\s*/g, " ")) : parts)
      .join(to === "lines" ? "\n" : "\n\n");
  }
  changed();
}

for (const radio of document.querySelectorAll("[name=form]")) radio.addEventListener("change", changeForm);
byId("add").addEventListener("click", () => { addDocument().focus(); changed(); });
byId("call").addEventListener("input", (event) => { if (event.target.name !== "form") changed(); });
byId("example").addEventListener("click", () => {
  query.value = EXAMPLE.query;
  document.querySelector("[name=form][value=lines]").checked = true;
  form = "lines";
  byId("as-text").hidden = false;
  byId("as-list").hidden = true;
  text.value = EXAMPLE.documents.join("\n");
  for (const side of [queryPictures, documentPictures]) side.clear();
  query.focus();
});

// -- the call

let running = null, latest = null;
window.addEventListener("resize", () => latest?.fit());

function busy(controller) {
  running = controller;
  byId("send").disabled = controller !== null;
  byId("stop").hidden = controller === null;
}

function problem(message) {
  byId("problem").textContent = message;
  byId("problem").hidden = !message;
}

async function* jsonLines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    const messages = lines.filter(Boolean).map((line) => JSON.parse(line));
    if (messages.length) yield messages;
  }
}

async function rank() {
  if (running) return;
  const call = body();
  problem("");
  byId("cost").hidden = true;
  if (!call.query || !call.documents.length) {
    problem(call.query ? "Type or paste at least one document." : "Type a query.");
    (call.query ? (form === "list" ? byId("add") : text) : query).focus();
    return;
  }
  const ranking = latest = new Ranking(byId("results"), call.documents);
  const controller = new AbortController();
  busy(controller);
  progress(`Ranking ${whole(call.documents.length)} documents…`);
  try {
    await receive(call, ranking, controller.signal);
  } catch (error) {
    const stopped = error.name === "AbortError";
    if (!stopped) problem(error instanceof TypeError ? "The server does not answer." : error.message);
    progress(`${stopped ? "Stopped" : "Ended"} after ${ranking.numScored} of ${call.documents.length} documents.`);
  } finally {
    ranking.end();
    busy(null);
  }
}

const progress = (message) => { byId("progress").textContent = message; };

async function receive(call, ranking, signal) {
  const answer = await ask("v1/rerank", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/x-ndjson" },
    body: JSON.stringify({ ...call, return_documents: false }),
    signal,
  });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  let last = null;
  for await (const messages of jsonLines(answer.body)) {
    for (const message of messages) {
      if (message.results) last = message;
      else if (message.error && message.index === undefined) throw new Error(message.error.message);
      else ranking.add(message);
    }
    ranking.show();
    progress(`${whole(ranking.numScored)} of ${whole(call.documents.length)} documents scored`);
  }
  if (!last) throw new Error("The connection ended before the last score.");
  ranking.finish(last.results);
  progress(`${whole(ranking.numScored)} documents ranked in ${milliseconds(last.cost.total_ms)}.`);
  showCost(last);
}

function showCost({ usage, cost }) {
  const shared = usage.prompt_tokens ? Math.max(0, 1 - cost.computed_tokens / usage.prompt_tokens) : 0;
  const parts = [["encode", "Tokenising", cost.encode_ms], ["queue", "Queue", cost.queue_ms],
    ["compute", "Compute", cost.compute_ms]];
  byId("cost-bar").replaceChildren();
  byId("cost-numbers").replaceChildren();
  for (const [kind, label, ms] of parts) {
    make("div", kind, undefined, byId("cost-bar")).style.flexGrow = ms;
    entry(label, milliseconds(ms), kind);
  }
  entry("Tokens", whole(usage.prompt_tokens));
  entry("Computed", whole(cost.computed_tokens));
  entry("Shared", percent(shared));
  entry(cost.steps === 1 ? "Step" : "Steps", whole(cost.steps));
  if (usage.truncated_documents) entry("Cut", whole(usage.truncated_documents));
  byId("cost").hidden = false;
}

function entry(label, value, kind) {
  const pair = make("div", "", undefined, byId("cost-numbers"));
  const term = make("dt", "", undefined, pair);
  if (kind) make("i", kind, undefined, term);
  term.append(label);
  make("dd", "", value, pair);
}

const queryPictures = new Pictures(byId("query-side"), { of: "query", onChange: changed });
const documentPictures = new Pictures(byId("documents-side"), { of: "documents", onChange: changed, withTexts: true });
window.addEventListener("model", ({ detail: info }) => {
  for (const side of [queryPictures, documentPictures]) side.allow(info.max_images_per_pair > 0);
  changed();
});
byId("call").addEventListener("submit", (event) => { event.preventDefault(); rank(); });
byId("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !byId("rank").hidden) rank();
});
changed();
