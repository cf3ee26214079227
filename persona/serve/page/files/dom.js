// Elements from what they hold. Texts go in as text nodes alone, so that none of them is ever HTML.

export const by = (id) => document.getElementById(id);

/** An element: `make("p", { class: "soft" }, "a text", another)`; what is null or false is left out. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, String(value));
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

/** Tell those who listen to the page. */
export function say(text) {
  by("status").textContent = text;
}

export const counted = (number, what) => `${number} ${number === 1 ? what.replace(/s$/, "") : what}`;
