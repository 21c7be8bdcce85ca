// Draws the diagrams of a page, in the colours that the reader chose; drawn again when that choice changes.
const sources = new Map();

function isDark() {
    const chosen = document.body.dataset.theme;
    return chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
}

let number = 0;
let drawn;

async function draw() {
    const theme = isDark() ? "dark" : "neutral";
    if (theme === drawn) return;
    drawn = theme;
    mermaid.initialize({ startOnLoad: false, securityLevel: "strict", theme, fontFamily: "inherit" });
    for (const [place, source] of sources) {
        number += 1;
        const { svg } = await mermaid.render(`diagram-${number}`, source);
        place.innerHTML = svg;
        const drawing = place.firstElementChild;
        drawing.style.minWidth = `${0.75 * drawing.viewBox.baseVal.width}px`; // small enough, and legible: wider ones scroll
    }
}

for (const block of document.querySelectorAll("pre.diagram")) {
    const place = document.createElement("div");
    place.className = "drawing";
    sources.set(place, block.textContent);
    block.replaceWith(place);
}
if (sources.size) {
    draw();
    new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
