// What all pages have in common.

const pad = (number, length = 2) => String(number).padStart(length, '0')

const day = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric' })
const year = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium' })

/** The local date of a moment, without or with its year. */
export const dateOf = (moment, withYear = false) => (withYear ? year : day).format(moment)

/** The local time of day of a moment, in 24 hours, to the minute, the second or the millisecond. */
export function clockOf(moment, precision) {
  const parts = [moment.getHours(), moment.getMinutes()]
  if (precision !== 'minute') parts.push(moment.getSeconds())
  const clock = parts.map((part) => pad(part)).join(':')
  return precision === 'millisecond' ? `${clock}.${pad(moment.getMilliseconds(), 3)}` : clock
}

/** The local time of a moment, as a form of the server's `time_element` asks for it. */
export function localTime(iso, form) {
  const moment = new Date(iso)
  if (Number.isNaN(moment.getTime())) return iso
  if (form === 'clock') return `${dateOf(moment)} ${clockOf(moment, 'millisecond')}`
  return `${dateOf(moment, true)} ${clockOf(moment, 'second')}`
}

export function localise(root = document) {
  for (const element of root.querySelectorAll('time:not([data-local])')) {
    element.textContent = localTime(element.dateTime, element.dataset.form)
    element.dataset.local = ''
  }
}

function announce(text) {
  document.getElementById('announcer').textContent = text
}

let told

/** Announces what nothing else on the page shows, so that it is seen for a while. */
export function tell(text) {
  const place = document.getElementById('announcer')
  announce(text)
  place.classList.replace('unseen', 'told')
  clearTimeout(told)
  told = setTimeout(() => place.classList.replace('told', 'unseen'), 5000)
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    // Without https, and not on this machine, there is no clipboard but this one.
    const box = document.createElement('textarea')
    box.value = text
    const place = document.querySelector('dialog:modal') ?? document.body
    place.append(box)
    box.select()
    document.execCommand('copy')
    box.remove()
  }
  announce('Copied')
}

document.addEventListener('click', async (event) => {
  const button = event.target.closest?.('[data-copy], [data-copy-link]')
  if (!button) return
  const { copy: text, copyLink: link } = button.dataset
  await copy(text ?? new URL(link, location.href).href)
  const name = button.textContent
  if (name === 'Copied') return
  button.textContent = 'Copied'
  setTimeout(() => (button.textContent = name), 1200)
})

/** Calls back after something has been written to the store, and once at the start. */
export function onChanged(callback) {
  let source
  const connect = () => {
    source = new EventSource('/live')
    source.addEventListener('changed', callback)
  }
  connect()
  // An open stream keeps the page out of the browser's back-forward cache.
  addEventListener('pagehide', () => source.close())
  addEventListener('pageshow', (event) => event.persisted && connect())
}

/** Runs an asynchronous task; asked again meanwhile, it runs once more when it has ended. */
export function oneAtATime(task) {
  let running = false
  let again = false
  return async function run() {
    if (running) {
      again = true
      return
    }
    running = true
    try {
      do {
        again = false
        await task()
      } while (again)
    } finally {
      running = false
    }
  }
}

const focusKey = (element) => {
  if (element.id) return `#${CSS.escape(element.id)}`
  if (element.name) {
    return `[name="${CSS.escape(element.name)}"][value="${CSS.escape(element.value)}"]`
  }
  return element.getAttribute('href') ? `[href="${CSS.escape(element.getAttribute('href'))}"]` : null
}

/** Puts the regions of a fetched page in place of those of this one; the focus stays. */
export function swap(html, skip = () => false) {
  const fetched = new DOMParser().parseFromString(html, 'text/html')
  for (const old of document.querySelectorAll('[data-region]')) {
    const fresh = fetched.getElementById(old.id)
    if (!fresh || skip(old.id)) continue
    const focused = old.contains(document.activeElement) ? focusKey(document.activeElement) : null
    old.replaceWith(fresh)
    if (focused) {
      const again = fresh.matches(focused) ? fresh : fresh.querySelector(focused)
      again?.focus({ preventScroll: true })
    }
    localise(fresh)
  }
}

export async function fetchText(address, options) {
  const response = await fetch(address, options)
  if (!response.ok) throw new Error(`${response.status} for ${address}`)
  return response
}

/** Whether keys are being typed into something. */
export const isTyping = (target) =>
  target.isContentEditable ||
  target.matches?.('input:not([type="checkbox"], [type="radio"]), textarea, select')

localise()
