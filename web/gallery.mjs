// The kept steps of an adaptation as pictures of the same people; a click chooses one.

import { word } from "./words.mjs";

/** Make the gallery's element; `show(snapshots, url)` draws it, `choose(step)` is called by clicks. */
export function gallery(choose) {
  const element = document.createElement("div");
  element.dataset.oneshotGallery = "";
  element.style.cssText = "display:flex;gap:6px;overflow-x:auto;padding-bottom:2px";

  function tile({ step, chosen, src }) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = word("choose", step);
    button.dataset.step = step;
    button.setAttribute("aria-pressed", String(Boolean(chosen)));
    button.style.cssText = `flex:none;padding:0;background:none;color:inherit;font:inherit;cursor:pointer;border-radius:4px;
      border:2px solid ${chosen ? "#5fb3f6" : "transparent"}`;
    const picture = document.createElement("img");
    picture.src = src;
    picture.alt = word("choose", step);
    picture.draggable = false;
    picture.style.cssText = "display:block;width:88px;height:88px;border-radius:3px";
    const label = document.createElement("span");
    label.textContent = step;
    button.append(picture, label);
    button.onclick = () => choose(step);
    return button;
  }

  return {
    element,
    show(snapshots) {
      element.replaceChildren(...snapshots.map(tile));
      element.style.display = snapshots.length > 1 ? "flex" : "none";
    },
    /** Mark a step without asking the server. */
    mark(step) {
      for (const button of element.children) {
        const chosen = Number(button.dataset.step) === step;
        button.setAttribute("aria-pressed", String(chosen));
        button.style.borderColor = chosen ? "#5fb3f6" : "transparent";
      }
    },
  };
}
