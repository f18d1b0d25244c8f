// Pictures of the call: chosen as files, dropped, pasted or named by their address, each shown with what removes it.

import { make } from "./common.js";

const TYPES = ["image/png", "image/jpeg", "image/webp"];
const ADDRESS = /^(data:image\/(png|jpeg|jpg|webp);base64,|https?:\/\/)/i;

/** A picture as an element; of one on another host its address, since the page loads nothing from elsewhere. */
export function shown(source, description) {
  if (!source.startsWith("data:")) return make("span", "quiet address", source);
  const image = make("img", "picture");
  image.src = source;
  image.alt = description;
  return image;
}

const asDataUrl = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.addEventListener("load", () => resolve(reader.result));
  reader.addEventListener("error", () => reject(new Error(`${file.name} cannot be read.`)));
  reader.readAsDataURL(file);
});

/** The pictures of one side of the call, inside the element that holds the rest of it. */
export class Pictures {
  constructor(side, { of, onChange, withTexts }) {
    Object.assign(this, { of, onChange, withTexts, side, node: side.querySelector(".pictures"), entries: [] });
    this.list = make("ul", "", undefined, this.node);
    const row = make("div", "buttons", undefined, this.node);
    this.files = make("input", "hidden", undefined, row);
    Object.assign(this.files, { type: "file", multiple: true, accept: TYPES.join(","), tabIndex: -1 });
    this.files.setAttribute("aria-label", `Files of pictures as ${of}`);
    const choose = this.#button(row, `Add pictures as ${of}`, () => this.files.click());
    this.address = make("input", "", undefined, row);
    Object.assign(this.address, { type: "text", placeholder: "or an address, then Enter" });
    this.address.setAttribute("aria-label", `Address of a picture as ${of}`);
    this.note = make("span", "quiet", "", row);
    this.note.setAttribute("role", "status");
    this.choose = choose;
    this.#listen();
  }

  /** Whether this model reads pictures. */
  allow(allowed) {
    this.node.hidden = !allowed;
  }

  get values() {
    return this.node.hidden ? [] : this.entries.map(({ source, text }) => ({ source, text: text?.value.trim() ?? "" }));
  }

  async addFiles(files) {
    const wrong = files.filter((file) => !TYPES.includes(file.type)).map((file) => file.name);
    this.note.textContent = wrong.length ? `No PNG, JPEG or WebP: ${wrong.join(", ")}` : "";
    try {
      const right = files.filter((file) => TYPES.includes(file.type));
      (await Promise.all(right.map(asDataUrl))).forEach((source, i) => this.#add(source, right[i].name));
    } catch (error) {
      this.note.textContent = error.message;
    }
  }

  clear() {
    this.entries = [];
    this.list.replaceChildren();
    this.onChange();
  }

  #listen() {
    this.files.addEventListener("change", async () => {
      await this.addFiles([...this.files.files]);
      this.files.value = "";
    });
    this.address.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const source = this.address.value.trim();
      const right = ADDRESS.test(source);
      this.note.textContent = right ? "" : "An address begins with data:image/png;base64, or https://";
      if (!right) return;
      this.address.value = "";
      this.#add(source, "picture");
    });
    const files = (transfer) => (this.node.hidden ? [] : [...(transfer?.files ?? [])]);
    this.side.addEventListener("dragover", (event) => {
      if (!this.node.hidden && event.dataTransfer.types.includes("Files")) event.preventDefault();
    });
    for (const [kind, transfer] of [["drop", "dataTransfer"], ["paste", "clipboardData"]]) {
      this.side.addEventListener(kind, (event) => {
        const found = files(event[transfer]);
        if (!found.length) return;
        event.preventDefault();
        this.addFiles(found);
      });
    }
  }

  #add(source, name) {
    const item = make("li", "", undefined, this.list);
    const entry = { source, item };
    item.append(shown(source, name));
    if (this.withTexts) {
      entry.text = make("input", "", undefined, item);
      Object.assign(entry.text, { type: "text", placeholder: "Text beside it, or none" });
    }
    this.#button(item, "Remove", () => {
      const next = item.nextElementSibling ?? item.previousElementSibling;
      this.entries.splice(this.entries.indexOf(entry), 1);
      item.remove();
      (next?.querySelector("button") ?? this.choose).focus();
      this.#changed();
    });
    this.entries.push(entry);
    this.#changed();
  }

  #changed() {
    this.entries.forEach(({ item, text }, i) => {
      item.querySelector("button").setAttribute("aria-label", `Remove picture ${i + 1} of ${this.of}`);
      text?.setAttribute("aria-label", `Text beside picture ${i + 1}`);
    });
    this.onChange();
  }

  #button(parent, text, onClick) {
    const button = make("button", "", text, parent);
    button.type = "button";
    button.addEventListener("click", onClick);
    return button;
  }
}
