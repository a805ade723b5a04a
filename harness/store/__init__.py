"""Store: the one database that holds every run, written as it happens."""

from harness.store.journal import RunSummary, Store, open_store, store_url

__all__ = ["RunSummary", "Store", "open_store", "store_url"]
