// The list of results: sorted again whenever scores arrive, rows move to their new places.

import { make } from "./common.js";
import { shown } from "./pictures.js";

export const SHOWN = 500; // a list longer than this says nothing more to a person, and makes the page slow

const moves = () => !matchMedia("(prefers-reduced-motion: reduce)").matches;

export class Ranking {
  constructor(parent, documents) {
    this.parent = parent;
    this.documents = documents;
    this.entries = new Map(); // index -> {index, score, truncated, error}
    this.rows = new Map();
    this.numScored = 0;
    parent.replaceChildren();
  }

  add({ index, relevance_score: score, truncated, error }) {
    if (error) {
      this.entries.set(index, { index, score: -Infinity, problem: error.message });
      return;
    }
    if (!this.entries.has(index)) this.numScored += 1;
    this.entries.set(index, { index, score, truncated: truncated ?? this.entries.get(index)?.truncated });
  }

  /** The server's order is the one that counts: it ranks by the logit, not by the rounded score. */
  finish(results) {
    this.order = new Map(results.map((result, place) => [result.index, place]));
    for (const result of results) this.add(result);
    this.show();
  }

  end() {
    if (!this.order) this.show();
  }

  show() {
    const place = (entry) => this.order?.get(entry.index) ?? Infinity;
    const sorted = [...this.entries.values()].sort((a, b) => place(a) - place(b) || b.score - a.score || a.index - b.index);
    const scores = sorted.map((entry) => entry.score).filter(Number.isFinite);
    // Scores of most models lie between 0 and 1; logits are drawn between the lowest and the highest.
    const plain = scores.every((score) => score >= 0 && score <= 1);
    const low = plain ? 0 : Math.min(...scores), high = plain ? 1 : Math.max(...scores);
    const shown = sorted.slice(0, SHOWN);
    const before = moves() ? this.#tops() : new Map();
    const nodes = shown.map((entry, i) => this.#row(entry, i + 1, (entry.score - low) / (high - low || 1)));
    if (sorted.length > SHOWN) nodes.push(this.#rest(sorted.length - SHOWN));
    this.parent.replaceChildren(...nodes);
    this.fit();
    this.#slide(before);
  }

  /** A text that is cut off on the screen gets a button that opens it. All are measured before any is changed. */
  fit() {
    const rows = [...this.rows.values()].filter(({ node }) => node.isConnected && !node.classList.contains("open"));
    const long = rows.map(({ node, text }) => text.scrollHeight > text.clientHeight + 1 || node.querySelector(".picture") !== null);
    rows.forEach(({ opener }, i) => { opener.hidden = !long[i]; });
  }

  #tops() {
    return new Map([...this.rows].map(([index, row]) => [index, row.node.getBoundingClientRect().top]));
  }

  #slide(before) {
    for (const [index, row] of this.rows) {
      const from = before.get(index);
      if (from === undefined || !row.node.isConnected) continue;
      const distance = from - row.node.getBoundingClientRect().top;
      if (distance) row.node.animate([{ transform: `translateY(${distance}px)` }, { transform: "none" }],
        { duration: 220, easing: "ease-out" });
    }
  }

  #row(entry, place, share) {
    let row = this.rows.get(entry.index);
    if (!row) this.rows.set(entry.index, row = this.#newRow(entry));
    row.place.textContent = entry.problem ? "–" : `${place}.`;
    row.score.textContent = entry.problem ? "" : entry.score.toFixed(4);
    row.bar.style.width = entry.problem ? "0" : `${Math.max(0.4, 100 * share)}%`;
    return row.node;
  }

  #newRow(entry) {
    const document = this.documents[entry.index];
    const node = make("li");
    const row = { node, place: make("span", "place", "", node) };
    const content = make("div", "content", undefined, node);
    if (document.image) content.append(shown(document.image, `Picture of document ${entry.index + 1}`));
    row.text = make("span", "text", document.image ? document.text ?? "" : document, content);
    row.score = make("span", "score", "", node);
    const track = make("div", "track", undefined, node);
    track.setAttribute("aria-hidden", "true");
    row.bar = make("div", "bar", undefined, track);
    const under = make("div", "under", undefined, node);
    make("span", "quiet", `document ${entry.index + 1}`, under);
    if (entry.truncated) make("span", "badge", "cut", under).title = "Longer than the model reads: its end was left out.";
    if (entry.problem) make("span", "badge bad", entry.problem, under);
    row.opener = this.#opener(node, under);
    return row;
  }

  #opener(node, under) {
    const button = make("button", "", "Show all", under);
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const open = node.classList.toggle("open");
      button.setAttribute("aria-expanded", open);
      button.textContent = open ? "Show less" : "Show all";
    });
    return button;
  }

  #rest(count) {
    const node = make("li");
    make("span", "text waiting", `${count} more, with lower scores, are not listed.`, make("span", "", undefined, node));
    return node;
  }
}
