// Draws the figures of a page in the reader's theme and width. plotly.min.js is fetched only where there is a chart.
"use strict";
(() => {
  const root = document.currentScript.src.replace(/book\.js.*$/, "");
  const charts = [];

  const mode = () => (document.documentElement.dataset.theme === "dark" ? "dark" : "light");

  // On a narrow screen the words are smaller.
  function layoutFor(element, layout) {
    const narrow = element.clientWidth < 480;
    const font = narrow ? { size: 12 } : {};
    return { ...layout, autosize: true, template: window.mlkitTemplates[mode()], font: { ...layout.font, ...font } };
  }

  // Plotly draws menus and sliders into the picture, where no key reaches them: a page has the browser's own instead.
  function control(words, kind, names, chosen, choose) {
    const label = document.createElement("label");
    const input = document.createElement(kind);
    const said = document.createElement("span"); // not <output>: a label would name that instead of the input
    const say = () => { if (kind !== "select") said.textContent = input.ariaValueText = names[input.value]; };
    if (kind === "select") {
      names.forEach((name, i) => input.add(new Option(name, i)));
      label.append(`${words}: `, input);
    } else {
      Object.assign(input, { type: "range", min: 0, max: names.length - 1 });
      label.append(words, said, input);
    }
    input.value = chosen ?? 0;
    say();
    input.addEventListener("input", () => { say(); choose(Number(input.value)); });
    return label;
  }

  const apply = (element, { method, args }) => window.Plotly[method](element, ...structuredClone(args));

  // A menu called "initialization, shots", with choices such as "FOMAML*, 5-shot", becomes a chooser for each part.
  function choosers(element, menu) {
    const words = menu.name.split(", ");
    const parts = menu.buttons.map(({ label }) => (words.length > 1 ? label.split(", ") : [label]));
    const offered = words.map((_, i) => [...new Set(parts.map((part) => part[i]))]);
    let chosen = menu.active ?? 0;
    const labels = words.map((word, i) =>
      control(word, "select", offered[i], offered[i].indexOf(parts[chosen][i]), (which) => {
        const fits = (part) => part[i] === offered[i][which];
        const stays = (part) => part.every((name, k) => k === i || name === parts[chosen][k]);
        const whole = parts.findIndex((part) => fits(part) && stays(part));
        chosen = whole < 0 ? parts.findIndex(fits) : whole; // not every pair need be there
        labels.forEach((label, k) => { label.control.value = offered[k].indexOf(parts[chosen][k]); });
        apply(element, menu.buttons[chosen]);
      }));
    return labels;
  }

  function addControls(element, layout) {
    const found = [
      ...(layout.updatemenus ?? []).flatMap((menu) => choosers(element, menu)),
      ...(layout.sliders ?? []).map(({ currentvalue, steps, active }) =>
        control(currentvalue.prefix, "input", steps.map(({ label }) => label), active,
          (which) => apply(element, steps[which]))),
    ];
    if (!found.length) return;
    for (const name of ["updatemenus", "sliders", "margin"]) delete layout[name];
    const row = document.createElement("div");
    row.className = "controls";
    row.append(...found);
    element.closest("figure").prepend(row);
  }

  function draw(element) {
    const figure = JSON.parse(element.querySelector("script").textContent);
    addControls(element, figure.layout);
    // What must keep its proportions gets lower where the page gets narrower.
    if (figure.layout.yaxis?.scaleanchor) {
      const { t = 40, b = 56 } = figure.layout.margin ?? {};
      figure.layout.height = t + b + (figure.layout.height - t - b) * Math.min(1, element.clientWidth / 700);
      element.style.height = `${figure.layout.height}px`;
    }
    const config = { displayModeBar: false, responsive: true, scrollZoom: false };
    const chart = { element, layout: figure.layout, mode: mode() };
    charts.push(chart);
    return window.Plotly.newPlot(element, figure.data, layoutFor(element, figure.layout), config);
  }

  function retheme() {
    for (const chart of charts) {
      if (chart.mode === mode()) continue;
      chart.mode = mode();
      window.Plotly.relayout(chart.element, { template: window.mlkitTemplates[chart.mode] });
    }
  }

  function load(source) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      Object.assign(script, { src: root + source, onload: resolve, onerror: reject });
      document.head.append(script);
    });
  }

  async function start() {
    const elements = [...document.querySelectorAll("figure.mlkit .chart")];
    if (elements.length) {
      if (!window.Plotly) await load("plotly.min.js"); // a page that stands alone has it already
      await Promise.all(elements.map(draw));
      new MutationObserver(retheme).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    }
    document.documentElement.dataset.charts = elements.length; // every chart is drawn
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
