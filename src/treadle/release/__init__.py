"""Release: numbers, the champion, holds and rollback; pure, written down by the loop."""
