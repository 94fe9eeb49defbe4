"""`python -m control.alibaba.reference`: the table of actions of docs/alibaba.md."""

from control.alibaba.actions import ACTIONS
from control.cloud.reference import rows

if __name__ == "__main__":
    print("\n".join(rows(ACTIONS.values())))
