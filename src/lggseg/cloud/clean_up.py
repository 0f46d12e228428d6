"""List and delete what crashed or killed trainings and deployments have left behind."""

from __future__ import annotations

from lggseg.cloud.docker import remove_workplace, workplaces


def left_behind(where: str) -> list[str]:
    """What is left in one of the places of :func:`lggseg.cloud.deploy.deploy`; :func:`clean_up`
    deletes it. What other programs use at this moment is among it.

    ``here`` nothing can be left, since servers end with the process that started them.
    ``sagemaker-local``: temporary folders, each with the containers that Docker Compose started
    from it. ``sagemaker``: the ARNs of what the account's run has there.
    """
    if where == "sagemaker":
        from lggseg.cloud.aws.account import open_account
        from lggseg.cloud.aws.cleanup import find_everything

        return find_everything(open_account())
    return [str(folder) for folder in workplaces()] if where == "sagemaker-local" else []


def clean_up(where: str) -> None:
    """Delete what :func:`left_behind` lists, and on AWS the files and logs that belong to it."""
    if where == "sagemaker":
        from lggseg.cloud.aws.account import open_account
        from lggseg.cloud.aws.cleanup import delete_everything

        delete_everything(open_account())
    if where == "sagemaker-local":
        for folder in workplaces():
            remove_workplace(folder)
