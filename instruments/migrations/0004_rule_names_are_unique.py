"""One rule, one name: what is cut is told by it. Of rules that share a name the oldest keeps it, the others get a number."""

from typing import Any

from django.db import migrations, models

LONGEST = 60


def number_doubles(apps: Any, schema_editor: Any) -> None:
    """Give each rule whose name another has, too, the name with the next free number; nothing else of it changes."""
    rules = apps.get_model("instruments", "SubscriptionRule").objects
    named = list(rules.order_by("pk").values_list("pk", "name"))
    taken, kept = {name for _, name in named}, set()
    for key, name in named:
        if name in kept:
            free = (f" ({number})" for number in range(2, len(named) + 2))
            text = str(name or "rule")  # somebody may have stored it unchecked: a number, or none
            name = next(new for end in free if (new := f"{text[: LONGEST - len(end)]}{end}") not in taken)
            rules.filter(pk=key).update(name=name)
        taken.add(name)
        kept.add(name)


class Migration(migrations.Migration):
    dependencies = [("instruments", "0003_instrumentversion_universechange")]

    operations = [
        migrations.RunPython(number_doubles, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="subscriptionrule",
            name="name",
            field=models.CharField(error_messages={"unique": "Another rule has this name."}, max_length=60, unique=True),
        ),
        migrations.AlterField(
            model_name="universechange",
            name="left",
            field=models.JSONField(default=dict, help_text="Key: why: expired, key, rules, demand, limit"),
        ),
    ]
