// The logs page. The address is its state: whatever is chosen becomes an address, and the page
// shows what its address says.
import { fetchText, isTyping, localise, onChanged, oneAtATime, swap, tell } from './common.js'
import { Histogram } from './histogram.js'

const OVER_THE_LIST = ['log', 'tab', 'recording', 'timestamp', 'window']
const MOST_LIVE_LINES = 2000 // older ones are let go of as new ones come
const MOST_ASKED = 6000 // characters: of an address, proxies take 8 KiB

const $ = (id) => document.getElementById(id)
const drawer = $('drawer')
const recording = $('recording')
const form = $('filters')
const here = () => new URL(location.href)

const histogram = new Histogram($('histogram'), (from, to) =>
  navigate(listAt((parameters) => {
    parameters.delete('since')
    parameters.set('from', new Date(from * 1000).toISOString())
    parameters.set('to', new Date(to * 1000).toISOString())
  })),
)

// Addresses

/** The address of the list alone, changed by a function of its parameters. */
function listAt(change = () => {}) {
  const url = here()
  for (const name of OVER_THE_LIST) url.searchParams.delete(name)
  change(url.searchParams)
  return url
}

/** The parameters that the list depends on. */
const listKey = (url) => {
  const parameters = new URLSearchParams(url.search)
  for (const name of OVER_THE_LIST) parameters.delete(name)
  return parameters.toString()
}

/** The address that the fields of the page's form say. */
function chosen() {
  const url = new URL(form.action)
  for (const [name, value] of new FormData(form)) {
    if (value || name.includes('.') || name === 'service' || name === 'not-service') {
      url.searchParams.append(name, value)
    }
  }
  // A range back from now, or no range, in place of the range from one moment to another.
  if (!$('since').selectedOptions[0]?.matches('[data-custom]')) {
    for (const name of ['from', 'to']) url.searchParams.delete(name)
  }
  return url
}

let shown = listKey(here())

/** Goes to an address of the logs page. */
async function navigate(url, { replace = false } = {}) {
  url = new URL(url, location.href)
  const before = location.href
  if (url.href !== before) history[replace ? 'replaceState' : 'pushState'](null, '', url)
  await show()
}

/** Shows what the address says. */
async function show() {
  const url = here()
  if (listKey(url) !== shown) await loadList(url)
  await Promise.all([showDrawer(url), showRecording(url)])
}

let loading = new AbortController()

async function loadList(url, { quiet = false } = {}) {
  loading.abort()
  loading = new AbortController()
  const list = $('lines')
  if (!quiet) list.setAttribute('aria-busy', 'true')
  const address = new URL(url)
  for (const name of OVER_THE_LIST) address.searchParams.delete(name)
  address.searchParams.set('fragment', 'list')
  try {
    const response = await fetchText(address, { signal: loading.signal })
    const html = await response.text()
    shown = listKey(url)
    swap(html)
    listChanged()
    if (document.activeElement !== $('search')) $('search').value = url.searchParams.get('q') ?? ''
    $('news').hidden = true
    $('lines').scrollTop = 0
  } catch (error) {
    if (error.name === 'AbortError') return
    $('lines').removeAttribute('aria-busy')
    tell('The list could not be loaded')
    throw error
  }
}

// The list

const lines = () => [...$('lines').querySelectorAll('.open')]
const lineOf = (element) => element.closest('.line')
const idOf = (link) => lineOf(link).dataset.id

/** One line of the list is reached by the Tab key, the others from there by the arrows. */
function rove(link) {
  for (const other of $('lines').querySelectorAll('.open[tabindex="0"]')) other.tabIndex = -1
  link.tabIndex = 0
}

function prepare(root) {
  for (const link of root.querySelectorAll('.open, .replay a')) link.tabIndex = -1
}

const atTheEnd = new IntersectionObserver(
  (entries) => entries.some((entry) => entry.isIntersecting) && loadOlder(),
  { rootMargin: '800px' },
)

function watchTheEnd() {
  atTheEnd.disconnect()
  const more = $('more')
  if (more?.querySelector('[rel="next"]')) atTheEnd.observe(more)
}

const loadOlder = oneAtATime(async () => {
  const more = $('more')
  const next = more?.querySelector('[rel="next"]')
  if (!next) return
  atTheEnd.disconnect()
  const address = new URL(next.href)
  address.searchParams.set('fragment', 'rows')
  const key = shown
  const html = await (await fetchText(address)).text()
  if (key !== shown || !more.isConnected) return
  const fetched = new DOMParser().parseFromString(html, 'text/html')
  localise(fetched)
  prepare(fetched)
  $('table').append(...fetched.querySelectorAll('.chunk'))
  more.replaceWith(fetched.getElementById('more'))
  watchTheEnd()
})

function drawHistogram() {
  histogram.show(JSON.parse($('histogram-data').textContent))
}

function listChanged() {
  prepare($('lines'))
  const first = lines()[0]
  if (first) first.tabIndex = 0
  markSelected()
  watchTheEnd()
  drawHistogram()
}

function markSelected() {
  const id = here().searchParams.get('log')
  for (const line of $('lines').querySelectorAll('.line.selected')) line.classList.remove('selected')
  if (id) $('lines').querySelector(`[data-id="${CSS.escape(id)}"]`)?.classList.add('selected')
}

/** The line before or after, or the first one. */
async function step(by) {
  const all = lines()
  const focused = document.activeElement?.closest?.('.line')
  const from = focused ?? $('lines').querySelector('.line.selected')
  const index = from ? all.findIndex((link) => lineOf(link) === from) + by : 0
  const link = all[Math.min(Math.max(index, 0), all.length - 1)]
  if (!link) return
  if (index >= all.length - 20) loadOlder()
  rove(link)
  if (drawer.open) {
    lineOf(link).scrollIntoView({ block: 'nearest' })
    await openLine(idOf(link), { replace: true })
  } else link.focus()
}

// Live tail

const isLive = () => here().searchParams.has('live')

/** Puts the lines that have come above those that are shown. */
function addNewLines(fetched) {
  const list = $('lines')
  const firstKnown = list.querySelector('.line')
  const fresh = [...fetched.querySelectorAll('#lines .line')]
  const known = new Set([...list.querySelectorAll('.line')].slice(0, 500).map((line) => line.dataset.id))
  const added = fresh.filter((line) => !known.has(line.dataset.id))
  // So many that they do not join what is shown, or the first ones.
  if (!firstKnown || added.length === fresh.length) return false
  if (!added.length) return true
  const held = list.scrollTop > 30
  const height = list.scrollHeight
  for (const line of added) line.classList.add('new')
  // What comes late belongs between older lines.
  for (const line of added.reverse()) {
    const id = BigInt(line.dataset.id)
    let next = list.querySelector('.line')
    while (next && BigInt(next.dataset.id) > id) {
      next = next.nextElementSibling ?? next.parentElement.nextElementSibling?.querySelector?.('.line')
    }
    if (next) next.before(line)
    else $('table').lastElementChild.append(line)
  }
  localise(list)
  prepare(list)
  if (!list.querySelector('.open[tabindex="0"]')) lines()[0].tabIndex = 0
  if (held) list.scrollTop += list.scrollHeight - height
  else trim(list)
  return true
}

/** Lets go of the oldest lines; scrolling down fetches them again. */
function trim(list) {
  const all = list.querySelectorAll('.line')
  if (all.length <= MOST_LIVE_LINES) return
  const kept = all[MOST_LIVE_LINES - 1]
  for (const line of [...all].slice(MOST_LIVE_LINES)) line.remove()
  for (const chunk of list.querySelectorAll('.chunk:empty')) chunk.remove()
  const url = listAt((parameters) => parameters.set('before', kept.dataset.id))
  const link = document.createElement('a')
  link.rel = 'next'
  link.href = url.href
  link.textContent = 'Older'
  $('more').replaceChildren(link)
  watchTheEnd()
}

/** Asks for those sessions of the lines, the newest first, that had no recording. */
function askForRecordings(parameters) {
  const sessions = new Set([...$('lines').querySelectorAll('.unrecorded')].map((mark) => mark.dataset.session))
  let left = MOST_ASKED
  for (const session of sessions) {
    left -= encodeURIComponent(session).length + '&unrecorded='.length
    if (left < 0) break
    parameters.append('unrecorded', session)
  }
}

/** Makes the marks of sessions whose recording has come by now play it. */
function addRecordings(fetched) {
  const recorded = new Set(JSON.parse(fetched.getElementById('recorded').textContent))
  for (const mark of $('lines').querySelectorAll('.unrecorded')) {
    if (!recorded.has(mark.dataset.session)) continue
    const link = document.importNode(fetched.getElementById('play').content.firstElementChild, true)
    link.href = mark.dataset.replay
    link.tabIndex = -1
    mark.replaceWith(link)
  }
}

const refreshLive = oneAtATime(async () => {
  const key = shown
  const address = new URL(location.pathname, location.href)
  address.search = key
  address.searchParams.set('fragment', 'live')
  askForRecordings(address.searchParams)
  const html = await (await fetchText(address)).text()
  if (key !== shown || !isLive()) return
  const fetched = new DOMParser().parseFromString(html, 'text/html')
  const joined = addNewLines(fetched)
  addRecordings(fetched)
  // The search box and what is being chosen are left alone.
  const left = new Set(['form-state', 'range', 'live', 'chips', 'filter-state', 'columns-state', 'range-state', 'chosen-columns'])
  swap(html, (id) => left.has(id) || (joined && id === 'lines'))
  if (joined) drawHistogram()
  else listChanged()
})

let first = true
onChanged(async () => {
  if (isLive()) {
    // Nobody looks: it is done when somebody does.
    if (!document.hidden) await refreshLive()
  } else if (!first) $('news').hidden = false
  first = false
})
document.addEventListener('visibilitychange', () => !document.hidden && isLive() && refreshLive())

// The drawer

let opened = ''

function openLine(id, options) {
  return navigate(listAt((parameters) => {
    parameters.set('log', id)
    const tab = here().searchParams.get('tab')
    if (tab && here().searchParams.has('log')) parameters.set('tab', tab)
  }), options)
}

const closeDrawer = () => navigate(listAt())

async function showDrawer(url) {
  const id = url.searchParams.get('log')
  markSelected()
  if (!id) {
    opened = ''
    if (drawer.open) drawer.close()
    return
  }
  const tab = url.searchParams.get('tab') ?? ''
  const wanted = `${id} ${tab} ${shown}`
  if (!drawer.matches(':modal')) {
    if (drawer.open) opened = wanted // the page came with it
    else drawer.replaceChildren() // what is left of before leads elsewhere
    drawer.removeAttribute('open') // close() would tell the listener below
    drawer.showModal()
  }
  if (opened === wanted) return
  const sameLine = opened.startsWith(`${id} `)
  opened = wanted
  const { activeElement } = document
  const focused = activeElement !== drawer && drawer.contains(activeElement) && activeElement.id
  const address = new URL(`/logs/${encodeURIComponent(id)}`, location.href)
  address.search = shown
  address.searchParams.set('fragment', 'drawer')
  if (tab) address.searchParams.set('tab', tab)
  const html = await (await fetch(address)).text()
  if (opened !== wanted) return
  const fetched = new DOMParser().parseFromString(html, 'text/html')
  localise(fetched)
  drawer.replaceChildren(...fetched.body.childNodes)
  if (!sameLine) drawer.scrollTop = 0
  if (focused && $(focused)) $(focused).focus()
  else drawer.querySelector('.close')?.focus()
}

function refocusLine() {
  const current = $('lines').querySelector('.open[tabindex="0"]')
  current?.focus({ preventScroll: true })
}

drawer.addEventListener('close', () => {
  if (here().searchParams.has('log')) closeDrawer()
  refocusLine()
})
// Beside the drawer: another line opens, anything else closes it.
drawer.addEventListener('click', (event) => {
  if (event.target !== drawer) return
  const box = drawer.getBoundingClientRect()
  if (event.clientX >= box.left) return
  // Not elementFromPoint(): what is behind a modal dialog is not to be found by it.
  const over = (element) => {
    const { left, right, top, bottom } = element.getBoundingClientRect()
    return left <= event.clientX && event.clientX < right && top <= event.clientY && event.clientY < bottom
  }
  const line = over($('lines')) && [...$('lines').querySelectorAll('.line')].find(over)
  if (line) openLine(line.dataset.id)
  else drawer.close()
})

// The recording

let playing = ''

async function showRecording(url) {
  const session = url.searchParams.get('recording')
  if (!session) {
    playing = ''
    recording.querySelector('iframe')?.remove()
    if (recording.open) recording.close()
    return
  }
  const address = new URL(`/replay/${encodeURIComponent(session)}`, location.href)
  for (const name of ['timestamp', 'window']) {
    const value = url.searchParams.get(name)
    if (value) address.searchParams.set(name, value)
  }
  address.searchParams.set('embed', '1')
  if (!recording.matches(':modal')) {
    recording.removeAttribute('open')
    recording.showModal()
  }
  if (playing === address.href) return
  playing = address.href
  const frame = document.createElement('iframe')
  frame.title = 'Recording'
  frame.src = address.href
  frame.addEventListener('load', () => {
    // Escape closes, also while the player has the keys.
    frame.contentWindow.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') recording.close()
    })
    frame.contentWindow.focus()
  })
  recording.querySelector('iframe')?.remove()
  recording.append(frame)
}

recording.addEventListener('close', () => {
  const url = here()
  if (!url.searchParams.has('recording')) return
  for (const name of ['recording', 'timestamp', 'window']) url.searchParams.delete(name)
  navigate(url)
})

/** Opens the replay whose page of its own has this address. */
function openRecording(address) {
  const url = here()
  url.searchParams.set('recording', decodeURIComponent(address.pathname.split('/').pop()))
  for (const name of ['timestamp', 'window']) {
    const value = address.searchParams.get(name)
    if (value) url.searchParams.set(name, value)
    else url.searchParams.delete(name)
  }
  return navigate(url)
}

// Links and forms: those of this page change its state, all others are the browser's.

document.addEventListener('click', (event) => {
  if (event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return
  const link = event.target.closest?.('a[href]')
  if (!link || link.target || link.hasAttribute('download') || link.closest('.top')) return
  const url = new URL(link.href)
  if (url.origin !== location.origin) return
  if (link.matches('.open')) {
    event.preventDefault()
    rove(link)
    openLine(idOf(link))
  } else if (link.matches('[role="tab"]')) {
    event.preventDefault()
    chooseTab(link)
  } else if (link.matches('.line .replay a')) {
    event.preventDefault()
    openRecording(url)
  } else if (link.matches('[rel="next"]')) {
    event.preventDefault()
    loadOlder()
  } else if (link.id === 'refresh') {
    event.preventDefault()
    refresh()
  } else if (url.pathname === '/logs') {
    event.preventDefault()
    link.closest('[popover]')?.hidePopover()
    navigate(url)
  }
})

const chooseTab = (tab) => {
  tab.focus()
  const url = here()
  if (tab.dataset.tab === 'details') url.searchParams.delete('tab')
  else url.searchParams.set('tab', tab.dataset.tab)
  return navigate(url, { replace: true })
}

document.addEventListener('submit', async (event) => {
  const target = event.target
  if (target.method === 'dialog') return
  const data = new FormData(target)
  if (target === form) {
    event.preventDefault()
    clearTimeout(pause)
    navigate(chosen())
  } else if (target.matches('.view-recording')) {
    event.preventDefault()
    const url = new URL(target.action)
    url.search = new URLSearchParams(data)
    openRecording(url)
  } else if (target.dataset.merge !== undefined) {
    event.preventDefault()
    target.closest('[popover]').hidePopover()
    const url = new URL('/logs', location.href)
    for (const [name, value] of data) {
      // The fields are in local time.
      const time = (name === 'from' || name === 'to') && value && !value.endsWith('Z')
      if (value || !['from', 'to'].includes(name)) {
        url.searchParams.append(name, time ? new Date(value).toISOString() : value)
      }
    }
    if (target.dataset.merge === 'range') {
      navigate(url)
    } else {
      // The server answers with the address of the new state.
      url.searchParams.set('fragment', 'rows')
      const response = await fetchText(url)
      target.reset()
      const found = new URL(response.url)
      found.searchParams.delete('fragment')
      navigate(found)
    }
  }
})

form.addEventListener('change', (event) => {
  if (event.target.id !== 'search') navigate(chosen())
})
// Facets belong to the form, and stand outside of it.
document.addEventListener('change', (event) => {
  const field = event.target
  if (field.form === form && !form.contains(field)) navigate(chosen())
})
let pause
$('search').addEventListener('input', () => {
  clearTimeout(pause)
  pause = setTimeout(() => navigate(chosen(), { replace: true }), 250)
})

document.addEventListener('click', (event) => {
  const button = event.target.closest?.('button')
  if (button?.id === 'live') toggleLive()
  if (button?.id === 'news') refresh()
  if (button?.id === 'show-help') $('help').showModal()
})

const refresh = () => loadList(here())

function toggleLive() {
  return navigate(listAt((parameters) => {
    if (parameters.has('live')) parameters.delete('live')
    else parameters.set('live', '1')
  }))
}

// What can be written into the forms

async function suggest(list, address) {
  const found = await (await fetchText(address)).json()
  list.replaceChildren(
    ...found.map((each) => {
      const option = document.createElement('option')
      option.value = each.key ?? each.value
      return option
    }),
  )
}

const withQuery = (path) => {
  const url = new URL(path, location.href)
  url.search = shown
  return url
}
for (const id of ['filter-menu', 'columns-menu']) {
  $(id).addEventListener('toggle', (event) => {
    if (event.newState !== 'open') return
    $(id).querySelector('input:not([type="hidden"])').focus()
    suggest($('attribute-names'), withQuery('/logs/attributes.json'))
  })
}
$('filter-menu').addEventListener('change', (event) => {
  if (event.target.name === 'add-key') {
    const url = withQuery('/logs/values.json')
    url.searchParams.set('key', event.target.value)
    suggest($('attribute-values'), url)
  }
  if (event.target.name === 'add-is') {
    $('filter-menu').querySelector('[name="add-value"]').disabled = ['set', 'unset'].includes(event.target.value)
  }
})

// The keyboard

const KEYS = {
  j: () => step(1),
  ArrowDown: () => step(1),
  k: () => step(-1),
  ArrowUp: () => step(-1),
  '/': () => $('search').select(),
  r: refresh,
  l: toggleLive,
  '?': () => $('help').showModal(),
  p: play,
}

/** Plays the recording of the line that is open or has the focus, or says why there is none. */
function play() {
  const line = drawer.open
    ? drawer.querySelector('[data-log]') && drawer
    : document.activeElement?.closest?.('.line')
  if (!line) return
  const control = line.querySelector('form.view-recording button, .replay a')
  if (control) control.click()
  else if (line.querySelector('.view-recording, .unrecorded')) tell('No recording has come for this session yet.')
  else tell('This line has no session.')
}

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return
  const target = event.target
  if (target.matches?.('[role="tab"]')) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (by) {
      event.preventDefault()
      const tabs = [...target.parentElement.children]
      chooseTab(tabs[(tabs.indexOf(target) + by + tabs.length) % tabs.length])
    }
  }
  if (target.matches?.('a[role="button"], a[role="tab"]') && event.key === ' ') {
    event.preventDefault()
    target.click()
    return
  }
  if (target === $('search') && event.key === 'Escape') return target.blur()
  if (isTyping(target) || target.closest?.('[popover]') || recording.open || $('help').open) return
  const arrow = event.key.startsWith('Arrow')
  // Arrows scroll the drawer, and choose among radio buttons.
  if (arrow && (drawer.open || target.matches?.('input, summary'))) return
  if (drawer.open && !['j', 'k', 'p', '?'].includes(event.key)) return
  const act = KEYS[event.key]
  if (!act) return
  event.preventDefault()
  act()
})

addEventListener('popstate', show)
if (matchMedia('(max-width: 820px)').matches) $('facet-rail').open = false
listChanged()
show()
