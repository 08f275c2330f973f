// The page's script: starts the networks, preprocesses images like slimcnn, shows the predictions and times the networks.

const settings = JSON.parse(find("settings").textContent);
const [channels, height, width] = settings.input;
const TOP = 5;
const networks = [];
const seenSoFar = { images: 0, equal: 0 };
let runtime;
let queue = Promise.resolve(); // tasks run one after another: a session runs one image at a time

function find(id) {
  return document.getElementById(id);
}

function setText(id, text) {
  find(id).textContent = text;
}

function report(error) {
  find("problem").hidden = false;
  setText("problem", error.message ?? String(error));
}

function enqueue(work) {
  queue = queue.then(async () => {
    try {
      await work();
    } catch (error) {
      report(error);
    }
  });
  return queue;
}

// --- data embedded in the page ---------------------------------------------------------------------------------------

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

function takeData(id) {
  const element = find(id);
  const bytes = bytesOf(element.textContent);
  element.remove(); // frees the text
  return bytes;
}

async function unpacked(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function start() {
  const script = URL.createObjectURL(new Blob([takeData("runtime-script")], { type: "text/javascript" }));
  try {
    runtime = await import(script);
    runtime.env.logLevel = "error";
    runtime.env.wasm.numThreads = 1;
    runtime.env.wasm.wasmBinary = await unpacked(takeData("runtime-binary"));
    const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
    for (const [number, title] of settings.networks.entries()) {
      const session = await runtime.InferenceSession.create(takeData(`network-${number}`), options);
      networks.push({ title, session, pixels: session.inputMetadata[0].type === "uint8" });
    }
  } catch (error) {
    networks.length = 0;
    document.body.dataset.state = "failed";
    setText("answer", "The networks did not start.");
    throw new Error(`The networks do not start in this browser (${error.message}): use a current version of Chrome, Firefox or Safari.`);
  }
  document.body.dataset.state = "ready";
}

// --- from an image to pixels, equal to Pillow's scaling ---------------------------------------------------------------

function planesOf(bitmap) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const n = canvas.width * canvas.height;
  const planes = Array.from({ length: channels }, () => new Uint8Array(n));
  for (let i = 0; i < n; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (channels === 1) planes[0][i] = (r * 19595 + g * 38470 + b * 7471 + 32768) >> 16;
    else [planes[0][i], planes[1][i], planes[2][i]] = [r, g, b];
  }
  return planes;
}

/** Left, top, right and bottom of the largest center crop with the aspect ratio of the networks' input. */
function middle(w, h) {
  let [cutWidth, cutHeight] = [w, h];
  if (w / h > width / height) cutWidth = (width / height) * h;
  else if (w / h < width / height) cutHeight = w / (width / height);
  const [left, top] = [(w - cutWidth) * 0.5, (h - cutHeight) * 0.5];
  return [left, top, left + cutWidth, top + cutHeight];
}

function bicubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

function bilinear(x) {
  return Math.max(1 - Math.abs(x), 0);
}

const [kernel, support] = settings.interpolation === "bilinear" ? [bilinear, 1] : [bicubic, 2];

const ONE = 2 ** 22; // weights are integers, as in Pillow

/** For each of `size` output positions: the first input position between `from` and `to`, and the weights from it on. */
function weightsOf(length, from, to, size) {
  [from, to] = [Math.fround(from), Math.fround(to)]; // Pillow's boxes are 32-bit floats
  const scale = Math.fround(to - from) / size;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: size }, (_, place) => {
    const center = from + (place + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support * stretch + 0.5), 0);
    const last = Math.min(Math.trunc(center + support * stretch + 0.5), length);
    const weights = Array.from({ length: last - first }, (_, k) => kernel((k + first - center + 0.5) / stretch));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => roundAway((weight / sum) * ONE)) };
  });
}

function roundAway(x) {
  return x < 0 ? Math.ceil(x - 0.5) : Math.floor(x + 0.5);
}

/** Scale along one axis: `lines` lines with stride `line`, values with stride `step`. */
function scaled(plane, weights, lines, line, step) {
  const size = weights.length;
  const [outLine, outStep] = step === 1 ? [size, 1] : [1, lines];
  const out = new Uint8ClampedArray(lines * size);
  for (let place = 0; place < size; place++) {
    const { first, weights: shares } = weights[place];
    for (let number = 0; number < lines; number++) {
      let sum = ONE / 2;
      for (let k = 0, at = number * line + first * step; k < shares.length; k++, at += step) sum += plane[at] * shares[k];
      out[number * outLine + place * outStep] = Math.floor(sum / ONE);
    }
  }
  return out;
}

/** Scale the part [left, top, right, bottom] of a plane of width w and height h to the given size. */
function resized(plane, w, h, [left, top, right, bottom], toWidth, toHeight) {
  let found = plane;
  if (left !== 0 || right !== toWidth || w !== toWidth) found = scaled(found, weightsOf(w, left, right, toWidth), h, w, 1);
  if (top !== 0 || bottom !== toHeight || h !== toHeight) found = scaled(found, weightsOf(h, top, bottom, toHeight), toWidth, 1, toWidth);
  return found;
}

/** Scale a plane until its shorter side has the length `side`, and crop the center, like torchvision. */
function croppedAfterScaling(plane, w, h, side) {
  const [toWidth, toHeight] = w <= h ? [side, Math.trunc((side * h) / w)] : [Math.trunc((side * w) / h), side];
  const large = resized(plane, w, h, [0, 0, w, h], toWidth, toHeight);
  const [left, top] = [roundHalfEven((toWidth - width) / 2), roundHalfEven((toHeight - height) / 2)];
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const from = (top + y) * toWidth + left;
    out.set(large.subarray(from, from + width), y * width);
  }
  return out;
}

function roundHalfEven(x) {
  return x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x);
}

/** The pixels (c, h, w) of an image in the networks' input size, before normalization; test images have that size. */
function pixelsOf(bitmap, isTestImage) {
  const [w, h] = [bitmap.width, bitmap.height];
  const pixels = new Uint8Array(channels * height * width);
  planesOf(bitmap).forEach((plane, channel) => {
    const found =
      settings.resize === null || isTestImage
        ? resized(plane, w, h, middle(w, h), width, height)
        : croppedAfterScaling(plane, w, h, settings.resize);
    pixels.set(found, channel * height * width);
  });
  return pixels;
}

function draw(pixels, label) {
  const image = new ImageData(width, height);
  const n = width * height;
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[Math.min(c, channels - 1) * n + i];
    image.data[4 * i + 3] = 255;
  }
  find("seen").getContext("2d").putImageData(image, 0, 0);
  find("seen").setAttribute("aria-label", label);
}

// --- from pixels to predictions --------------------------------------------------------------------------------------

function inputOf(network, pixels) {
  const shape = [1, channels, height, width];
  if (network.pixels) return new runtime.Tensor("uint8", pixels, shape);
  const n = width * height;
  const x = Float32Array.from(pixels, (value, i) => {
    const c = Math.floor(i / n);
    return (value / 255 - settings.mean[c]) / settings.std[c];
  });
  return new runtime.Tensor("float32", x, shape);
}

async function scoresOf(network, input) {
  const { session } = network;
  const found = await session.run({ [session.inputNames[0]]: input });
  return found[session.outputNames[0]].data;
}

function softmax(scores) {
  const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(scores, (score) => Math.exp(score - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

function nameOf(number) {
  return settings.classes[number] ?? `class ${number}`;
}

function best(probabilities) {
  return Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
}

function percent(share) {
  return share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

function list(number, probabilities) {
  const rows = best(probabilities).slice(0, TOP).map((place) => {
    const row = document.createElement("li");
    row.dataset.class = place;
    row.dataset.probability = probabilities[place];
    const [name, share, bar, filled] = ["span", "span", "span", "i"].map((tag) => document.createElement(tag));
    [name.className, name.textContent, name.title] = ["class", nameOf(place), nameOf(place)];
    share.textContent = percent(probabilities[place]);
    bar.className = "bar";
    filled.style.width = `${100 * probabilities[place]}%`;
    bar.append(filled);
    row.append(name, share, bar);
    return row;
  });
  find(`answers-${number}`).replaceChildren(...rows);
}

function strong(text) {
  const element = document.createElement("strong");
  element.textContent = text;
  return element;
}

/** One sentence on the predictions of all networks, one on the difference of their probabilities. */
function showVerdict(answers, label) {
  const winners = answers.map((probabilities) => best(probabilities)[0]);
  const equal = winners.every((winner) => winner === winners[0]);
  seenSoFar.images += 1;
  seenSoFar.equal += equal;
  const parts = equal ? ["Same prediction: ", strong(nameOf(winners[0])), "."] : ["Different predictions: "];
  if (!equal) {
    winners.forEach((winner, i) => parts.push(i ? ", " : "", `${networks[i].title} predicts `, strong(nameOf(winner))));
    parts.push(".");
  }
  if (label) parts.push(` Label of the test image: ${label}.`);
  find("answer").replaceChildren(...parts);
  find("verdict").classList.toggle("differs", !equal);
  const apart = Math.max(...answers.slice(1).flatMap((other) => [...other].map((p, i) => Math.abs(p - answers[0][i]))));
  const so = seenSoFar.images === 1 ? "" : ` Same prediction on ${seenSoFar.equal} of ${seenSoFar.images} images so far.`;
  const points = Math.max(Math.ceil(1000 * apart) / 10, 0.1).toFixed(1);
  setText("details", `Class probabilities differ by at most ${points} percentage points.${so}`);
}

async function show(file, name, label = "") {
  if (!networks.length) return; // the page already shows that they did not start
  find("problem").hidden = true;
  const bitmap = await bitmapOf(file);
  const pixels = pixelsOf(bitmap, label !== "");
  bitmap.close();
  draw(pixels, name);
  const answers = [];
  for (const network of networks) answers.push(softmax(await scoresOf(network, inputOf(network, pixels))));
  answers.forEach((probabilities, number) => list(number, probabilities));
  showVerdict(answers, label);
  document.body.dataset.shown = seenSoFar.images;
  if (!networks[0].times) await time(pixels);
}

async function bitmapOf(file) {
  try {
    // Pillow neither applies color profiles nor multiplies by transparency.
    return await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${file.name || "This file"} is not an image that this browser can read: choose a PNG, JPEG, WebP, GIF or BMP file.`);
  }
}

// --- times -----------------------------------------------------------------------------------------------------------

const AT_LEAST = 20; // ms; browsers round times to up to 1 ms
const ROUNDS = 11;
const PATIENCE = 4000; // ms

function pause() {
  return new Promise((resolve) => setTimeout(resolve));
}

async function milliseconds(network, input, calls) {
  const began = performance.now();
  for (let i = 0; i < calls; i++) await scoresOf(network, input);
  return (performance.now() - began) / calls;
}

function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  return sorted[below] + (place - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

function digits(value) {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** Time all networks in turns, warmed up; show median and quartiles. */
async function time(pixels) {
  find("again").disabled = true;
  setText("timing", "Timing …");
  const inputs = networks.map((network) => inputOf(network, pixels));
  const calls = [];
  for (const [i, network] of networks.entries()) {
    await milliseconds(network, inputs[i], 3);
    const one = Math.max(await milliseconds(network, inputs[i], 1), 0.02);
    calls.push(Math.ceil(AT_LEAST / one));
    network.times = [];
  }
  const began = performance.now();
  for (let round = 0; round < ROUNDS && (round < 3 || performance.now() - began < PATIENCE); round++) {
    for (const [i, network] of networks.entries()) {
      network.times.push(await milliseconds(network, inputs[i], calls[i]));
      await pause();
    }
  }
  showTimes(calls);
  find("again").disabled = false;
  find("again").onclick = () => enqueue(() => time(pixels));
  document.body.dataset.state = "timed";
}

function showTimes(calls) {
  const [middle, low, high] = [0.5, 0.25, 0.75].map((share) => networks.map(({ times }) => quantile(times, share)));
  networks.forEach((_, i) => {
    setText(`time-${i}`, digits(middle[i]));
    setText(`spread-${i}`, `${digits(low[i])} to ${digits(high[i])}${i ? ratioText(i) : ""}`);
  });
  const rounds = networks[0].times.length;
  const least = Math.min(...calls) === 1 ? "1 call" : `${Math.min(...calls)} calls`;
  setText("timing", `Median and quartiles of ${rounds} rounds in turns, at least ${least} each; batch 1, one thread, in your browser. × is the median ratio to the original's latency in the same round.`);
}

/** The ratio to the first network's latency in the same round, because other load on the machine slows both down. */
function ratioText(i) {
  const shares = networks[i].times.map((one, round) => one / networks[0].times[round]);
  const noise = quantile(shares, 0.25) <= 1 && quantile(shares, 0.75) >= 1;
  return ` · × ${quantile(shares, 0.5).toFixed(2)}${noise ? ", within the noise" : ""}`;
}

// --- image input -----------------------------------------------------------------------------------------------------

function take(files) {
  const [file] = files;
  press(null);
  enqueue(async () => {
    if (!file) throw new Error("No image file found: drop or paste a PNG, JPEG, WebP, GIF or BMP file.");
    await show(file, file.name || "Your image");
  });
}

function press(button) {
  for (const other of find("samples")?.children ?? []) other.setAttribute("aria-pressed", other === button);
}

function sampleButton({ png, label }, number) {
  const [button, image] = [document.createElement("button"), document.createElement("img")];
  const name = `Test image ${number + 1}: ${label}`;
  [button.type, button.title, image.alt, image.src] = ["button", name, name, `data:image/png;base64,${png}`];
  button.setAttribute("aria-pressed", "false");
  button.onclick = () => {
    press(button);
    return enqueue(() => show(new Blob([bytesOf(png)], { type: "image/png" }), name, label));
  };
  button.append(image);
  return button;
}

function listen() {
  find("samples")?.append(...settings.samples.map(sampleButton));
  find("samples")?.classList.toggle("coarse-samples", height < 128);
  find("file").onchange = ({ target }) => {
    take(target.files);
    target.value = ""; // allows choosing the same file again
  };
  addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
  for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
    addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", over);
      if (name === "drop") take(event.dataTransfer.files);
    });
  }
}

listen();
enqueue(start);
enqueue(async () => {
  if (!networks.length) return;
  setText("answer", "Ready: drop an image.");
  find("samples")?.children[0]?.click();
});
