"""The command `watch`: a live page about a store."""

from __future__ import annotations

import click


def command(name: str) -> click.Command:
    """Return the command `name` of this module."""
    assert name == "watch"
    return watch


@click.command()
@click.argument("place", required=False, metavar="[STORE]")
@click.option("--store", metavar="PATH", help="The same as STORE (default: runs).")
@click.option(
    "--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0 for any free."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to serve on; others than this machine's own are served on with a token only.",
)
@click.option("--open", "browse", is_flag=True, help="Open the page in the browser.")
@click.option("--no-fits", is_flag=True, help="Fit no laws: leave the cores to training.")
def watch(place: str | None, store: str | None, port: int, host: str, browse: bool, no_fits: bool) -> None:
    """Serve a live page about the runs in STORE (a folder or URL): progress, curves as they grow, the laws so
    far, predictions and failures. It only reads the store."""
    from allometry.runs.store import Store
    from allometry.watch.server import Server

    if place and store and place != store:
        raise click.UsageError(f"STORE is {place} and --store {store}: name one")
    store = place or store or "runs"
    server = Server(Store(store), host=host, port=port, fits=not no_fits)
    try:
        click.echo(f"watching {store}: {server.url}   (ctrl-C ends it)")
        if browse:
            import webbrowser

            webbrowser.open(server.url)
        server.serve_forever()
    except KeyboardInterrupt:
        click.echo("stopped; training goes on")
    finally:
        server.stop()
