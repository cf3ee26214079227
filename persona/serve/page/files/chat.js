// A chat: each request is answered twice, with the user's records and without.

import * as api from "./api.js";
import { by, counted, make, say } from "./dom.js";
import * as held from "./held.js";

const SIDES = [
  { personal: true, title: "With your records" },
  { personal: false, title: "Without" },
];

let histories = SIDES.map(() => []);
let running = null;
let allowed = () => false;

export function open(may) {
  allowed = may;
  by("request").disabled = by("send").disabled = !may("ask");
  if (!may("ask")) by("request").placeholder = "This key may not ask.";
}

export function close() {
  running?.abort();
  histories = SIDES.map(() => []);
  by("turns").replaceChildren(by("nothing"));
  by("nothing").hidden = false;
}

async function ask(request) {
  running = new AbortController();
  by("nothing").hidden = true;
  by("stop").hidden = false;
  by("send").hidden = true;
  const sides = by("compare").checked ? SIDES : SIDES.slice(0, 1);
  const cards = sides.map((side) => card(side));
  const turn = make("article", { class: "turn" },
    make("p", { class: "request" }, request),
    make("div", { class: "answers" }, ...cards.map((each) => each.element)));
  by("turns").append(turn);
  turn.scrollIntoView({ block: "end", behavior: "smooth" });
  say("Answering …");
  const texts = await Promise.all(cards.map((each, index) => fill(each, index, request)));
  by("stop").hidden = true;
  by("send").hidden = false;
  running = null;
  if (texts.length === 2 && texts.every(Boolean) && allowed("write")) {
    cards.forEach((each, index) => each.foot.append(chooser(cards, request, texts, index)));
  }
  turn.scrollIntoView({ block: "end", behavior: "smooth" });
  say(texts.every((text) => text == null) ? "No answer." : "The answers are there.");
}

function card(side) {
  const text = make("p", { class: "text" });
  const foot = make("div", { class: "foot" });
  const element = make("section", { class: side.personal ? "answer own" : "answer plain", "aria-label": side.title, "aria-busy": "true" },
    make("h2", {}, side.title), text, foot);
  return { side, element, text, foot };
}

/** Stream one answer into its card; the whole text, or null where there is none. */
async function fill({ side, element, text, foot }, index, request) {
  const history = histories[index];
  const messages = [...history, { role: "user", content: request }];
  let whole = "";
  try {
    const used = await api.answer(messages, side.personal, (piece) => {
      whole += piece;
      text.append(piece);
    }, running.signal);
    histories[index] = [...messages, { role: "assistant", content: whole }];
    if (side.personal) foot.append(provenance(used));
    return whole;
  } catch (error) {
    const stopped = error.name === "AbortError";
    foot.append(make("p", { class: stopped ? "soft" : "error" }, stopped ? "Stopped." : error.message));
    return null;
  } finally {
    element.removeAttribute("aria-busy");
  }
}

/** What stood behind an answer. */
function provenance(used) {
  if (!used || used.abstained) return make("p", { class: "soft" }, "Nothing of yours went into this answer.");
  const count = used.records.length;
  const summary = `${count ? counted(count, "records") : used.channels.join(", ")}, ${counted(used.tokens_added, "tokens")} more`;
  const rows = used.records.map((id) => {
    const record = held.find(id);
    return make("li", {}, record ? held.lines(record) : make("code", {}, id));
  });
  return make("details", { class: "used" }, make("summary", {}, "Used: ", summary), count > 0 && make("ul", { class: "records" }, ...rows));
}

function chooser(cards, request, texts, index) {
  const button = make("button", { class: "quiet", onclick: choose }, "Prefer this one");
  async function choose() {
    try {
      await api.data("POST", { type: "choice", prompt: request, answers: texts, chosen: index }, "feedback");
      cards.forEach((each) => each.foot.querySelector("button")?.remove());
      cards[index].foot.append(make("p", { class: "soft" }, "Noted: it is a record now."));
      say("Noted as a record.");
      await held.load();
    } catch (error) {
      button.replaceWith(make("p", { class: "error" }, error.message));
    }
  }
  return button;
}

by("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const request = by("request").value.trim();
  if (!request || running) return;
  by("request").value = "";
  ask(request);
});
by("request").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    by("ask").requestSubmit();
  }
});
by("stop").addEventListener("click", () => {
  running?.abort();
  by("request").focus();
});
