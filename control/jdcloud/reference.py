"""`python -m control.jdcloud.reference`: the table of actions of docs/jdcloud.md."""

from control.cloud.reference import rows
from control.jdcloud.actions import ACTIONS

if __name__ == "__main__":
    print("\n".join(rows(ACTIONS.values())))
