// All that is held on the user: records to be changed, added and deleted, and what was made from them.

import * as api from "./api.js";
import { by, counted, make, say } from "./dom.js";

const AT_ONCE = 50;
const FIELDS = [
  ["text", "Text", "What was read, written or said"],
  ["target", "Target", "What was made of it: a score, a tag, a title"],
  ["time", "Time", "Like 2027 or 2027-01-31"],
];

let records = [];
let shown = AT_ONCE;
let allowed = () => false;
let made = [];

export const find = (id) => records.find((record) => record.id === id);

export async function open(may) {
  allowed = may;
  by("add").hidden = !may("write");
  by("forget").hidden = !may("erase");
  by("filter").hidden = !may("write");
  await load();
}

export function close() {
  records = made = [];
  by("filter").value = "";
  draw();
}

/** Read everything once more. */
export async function load() {
  if (!allowed("write")) {
    by("made").replaceChildren(make("p", { class: "soft" }, "This key may not read what is held."));
    return;
  }
  try {
    const held = await api.data("GET");
    // Newest first: what one looks for is mostly what came last.
    records = held.records.reverse();
    made = parts(held);
  } catch (error) {
    if (error.status !== 404) throw error;
    records = made = [];
  }
  draw();
}

function parts(held) {
  const named = { keys: "API keys" };
  return [
    ...held.indexes.map((each) => part(each.kind, each.fresh, each.size, each.content?.text)),
    ...held.vectors.map((each) => part(`${counted(each.rows, "vectors")} of ${each.fingerprint}`, each.fresh, each.size)),
    ...held.adapters.map((each) => part(`adapter, version ${each.version} (${each.state})`, each.fresh, each.size)),
    ...Object.entries(held.others).filter(([, rows]) => rows).map(([name, rows]) => make("li", {}, counted(rows, named[name] ?? name))),
  ];
}

function part(name, fresh, bytes, text) {
  const state = `${fresh ? "up to date" : "behind the records"}, ${bytes.toLocaleString("en")} bytes`;
  return make("li", {}, make("span", { class: "name" }, name), " ", make("span", { class: "soft" }, state), text && make("p", {}, text));
}

function draw() {
  const wanted = by("filter").value.trim().toLocaleLowerCase();
  const fits = records.filter((record) => !wanted || [record.text, record.target, record.time, ...Object.values(record.metadata)]
    .some((value) => value?.toLocaleLowerCase().includes(wanted)));
  by("records").replaceChildren(...fits.slice(0, shown).map(item));
  if (!fits.length) by("records").append(make("li", { class: "soft" }, records.length ? "No record fits." : "Nothing is held."));
  by("more").hidden = fits.length <= shown;
  by("count").textContent = by("count-short").textContent = records.length;
  by("made").replaceChildren(...(made.length ? [make("h3", {}, "Made from them"), make("ul", {}, ...made)] : []));
  by("forget").disabled = !records.length && !made.length;
}

/** What a record says. */
export function lines(record) {
  const more = Object.entries(record.metadata).map(([name, value]) => `${name}: ${value}`).join(" · ");
  return make("div", { class: "lines" },
    record.time && make("time", { datetime: record.time }, record.time.slice(0, 10)),
    make("p", {}, record.text),
    record.target && make("p", { class: "target" }, record.target),
    more && make("p", { class: "soft" }, more));
}

function item(record) {
  const name = record.text.slice(0, 60);
  const row = make("li", { class: "record" }, lines(record), make("div", { class: "acts" },
    allowed("write") && make("button", { class: "quiet", "aria-label": `Change: ${name}`, onclick: () => edit(row, record) }, "Change"),
    allowed("erase") && make("button", { class: "quiet", "aria-label": `Delete: ${name}`, onclick: () => remove(row, record) }, "Delete")));
  return row;
}

/** Turn a record's row into a form; without a record, for a new one. */
function edit(row, record) {
  const inputs = FIELDS.map(([field, label, hint]) => {
    const input = make(field === "text" ? "textarea" : "input", { id: `edit-${field}`, rows: 3, placeholder: hint, required: field === "text", autocomplete: "off" });
    input.value = record?.[field] ?? "";
    return [make("label", { for: input.id }, label), input];
  });
  const problem = make("p", { class: "error", role: "alert" });
  const form = make("form", { class: "edit", "aria-label": record ? "Change the record" : "Add a record", onsubmit: save }, ...inputs.flat(), problem,
    make("div", { class: "row end" }, make("button", { type: "button", onclick: leave }, "Cancel"), make("button", { class: "primary" }, "Save")));
  form.addEventListener("keydown", (event) => event.key === "Escape" && leave());
  row.replaceChildren(form);
  form.scrollIntoView({ block: "nearest" });
  inputs[0][1].focus({ preventScroll: true });

  function leave() {
    draw();
    (record ? by("records").querySelector("button") : by("add"))?.focus();
  }

  async function save(event) {
    event.preventDefault();
    const fields = Object.fromEntries(inputs.map(([, input], index) => [FIELDS[index][0], input.value.trim() || null]));
    try {
      await (record ? api.data("PATCH", fields, "records", record.id) : api.data("PUT", fields, "records"));
      await load();
      leave();
      say(record ? "The record was changed." : "The record was added.");
    } catch (error) {
      problem.textContent = error.message;
    }
  }
}

async function remove(row, record) {
  try {
    await api.data("DELETE", undefined, "records", record.id);
    const next = row.nextElementSibling ?? row.previousElementSibling;
    const index = next ? [...by("records").children].indexOf(next) - (next === row.nextElementSibling ? 1 : 0) : 0;
    await load();
    say("The record was deleted.");
    (by("records").children[index]?.querySelector("button") ?? by("add")).focus();
  } catch (error) {
    row.append(make("p", { class: "error", role: "alert" }, error.message));
  }
}

by("filter").addEventListener("input", () => {
  shown = AT_ONCE;
  draw();
});
by("more").addEventListener("click", () => {
  shown += AT_ONCE;
  draw();
});
by("add").addEventListener("click", () => {
  const there = by("records").querySelector(".new textarea");
  if (there) return there.focus();
  const row = make("li", { class: "record new" });
  by("records").prepend(row);
  edit(row, null);
});
