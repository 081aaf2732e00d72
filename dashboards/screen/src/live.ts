// The screen's connection to its data: the definition once, then every change as it is committed.

import { onScopeDispose, ref, shallowRef, type Ref, type ShallowRef } from 'vue'
import {
  CallError, definition, eventsUrl, parse,
  type DashboardData, type DashboardDefinition, type TileAnswer, type View,
} from './api'

export type Connection = 'connecting' | 'live' | 'stale'

export interface Live {
  dashboard: ShallowRef<DashboardDefinition | null>
  tiles: ShallowRef<Record<string, TileAnswer>>
  view: ShallowRef<View | null>
  connection: Ref<Connection>
  failure: ShallowRef<CallError | null>
  retry: () => void
}

/** An event carries the tiles that changed; the others are as they were, at the same cut. */
export function merged(
  tiles: Record<string, TileAnswer>,
  event: DashboardData,
): Record<string, TileAnswer> {
  return { ...tiles, ...event.tiles }
}

/** Wait before the next attempt: doubling from 1 s, at most 15 s. */
export function backoff(attempt: number): number {
  return Math.min(15_000, 1000 * 2 ** Math.min(attempt, 4))
}

export function useLive(id: string): Live {
  const dashboard = shallowRef<DashboardDefinition | null>(null)
  const tiles = shallowRef<Record<string, TileAnswer>>({})
  const view = shallowRef<View | null>(null)
  const connection = ref<Connection>('connecting')
  const failure = shallowRef<CallError | null>(null)
  const stopped = new AbortController()
  let source: EventSource | null = null
  let timer: ReturnType<typeof setTimeout> | undefined
  let attempt = 0

  function later(action: () => void) {
    clearTimeout(timer)
    timer = setTimeout(action, backoff(attempt++))
  }

  async function load() {
    try {
      dashboard.value = await definition(id, stopped.signal)
      failure.value = null
      attempt = 0
      listen()
    } catch (error) {
      if (stopped.signal.aborted) return
      if (!(error instanceof CallError)) throw error
      failure.value = error
      // An unknown dashboard stays unknown; a server that is away may come back.
      if (error.status !== 404) later(load)
    }
  }

  function listen() {
    source?.close()
    const events = new EventSource(eventsUrl(id))
    source = events
    const take = (event: MessageEvent<string>) => {
      const data = parse<DashboardData>(event.data)
      tiles.value = merged(tiles.value, data)
      view.value = data.view
      connection.value = 'live'
      attempt = 0
    }
    events.addEventListener('data', take)
    events.onopen = () => {
      connection.value = 'live'
    }
    events.onerror = () => {
      connection.value = 'stale'
      // The browser reconnects a broken stream by itself, but gives up on a refused one.
      if (events.readyState === EventSource.CLOSED) later(listen)
    }
  }

  function retry() {
    attempt = 0
    clearTimeout(timer)
    void load()
  }

  onScopeDispose(() => {
    stopped.abort()
    clearTimeout(timer)
    source?.close()
  })
  void load()
  return { dashboard, tiles, view, connection, failure, retry }
}
